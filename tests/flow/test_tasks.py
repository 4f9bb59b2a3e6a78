"""Tasks in Ray: every result once, a user's error as it is, and nothing that stays behind."""

from __future__ import annotations

import time
from typing import Any

import psutil
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


def test_finished_tasks_leave_no_record_in_the_memory_of_a_local_ray(local_ray: None) -> None:
    import ray

    class Doubler:
        def double(self, number: int) -> int:
            return double(number)

    (gcs,) = (one for one in psutil.Process().children(recursive=True) if "gcs_server" in " ".join(one.cmdline()))
    actor: Any = ray.remote(num_cpus=0)(Doubler).remote()
    ray.get(actor.double.remote(1))
    before = gcs.memory_info().rss
    ray.get([actor.double.remote(number) for number in range(6_000)])
    time.sleep(3)  # workers report once a second
    assert gcs.memory_info().rss - before < 8 << 20  # 25 MB with records


def test_log_files_of_dead_processes_do_not_stay_open_in_a_local_ray(local_ray: None) -> None:
    import ray

    class Talker:
        def talk(self) -> None:
            print("a line, so that the log monitor opens the file")

    (monitor,) = (one for one in psutil.Process().children(recursive=True) if "log_monitor" in " ".join(one.cmdline()))
    for _ in range(3):
        actor: Any = ray.remote(num_cpus=0)(Talker).remote()
        ray.get(actor.talk.remote())
        time.sleep(1)  # it looks for new files ten times a second
        ray.kill(actor)
    assert len([one for one in monitor.open_files() if "/worker-" in one.path]) <= 1
