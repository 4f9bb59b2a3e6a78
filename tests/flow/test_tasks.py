"""Tasks in Ray: every result once, and a user's error as it is."""

from __future__ import annotations

import pytest

from pipeline.config import ConfigError
from pipeline.flow.tasks import run_tasks

pytestmark = pytest.mark.timeout(600)


def double(number: int) -> int:
    return 2 * number


def refused(number: int) -> int:
    raise ConfigError(f"input.uri: {number}: not there")


def test_every_task_gives_its_result_once_however_many_run(local_ray: None) -> None:
    assert sorted(run_tasks(double, range(7), 2)) == [0, 2, 4, 6, 8, 10, 12]
    assert list(run_tasks(double, [])) == []


def test_a_mistake_of_the_user_stays_one_line(local_ray: None) -> None:
    with pytest.raises(ConfigError, match=r"^input\.uri: 3: not there$"):
        list(run_tasks(refused, [3]))
