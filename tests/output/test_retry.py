"""Tests of retries: which recordings are retried, rounds go on after a kill, the latest result counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import PlanConfig
from pipeline.output.commit import committed_units
from pipeline.output.retry import latest_units, plan_retry
from pipeline.planning.plan import plan_names, read_plan
from pipeline.storage.base import Storage, open_storage
from tests.support.outputs import commit, left, plan, ref, run

PAIRS = PlanConfig(unit_recordings=2)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def _ids_left(storage: Storage) -> list[str]:
    return [item.recording_id for unit in left(storage) for item in unit.refs]


def test_without_a_plan_or_a_dead_letter_there_is_nothing_to_retry(storage: Storage) -> None:
    assert plan_retry(storage, PAIRS) is None
    fingerprint = plan(storage, [ref(number) for number in range(5)])
    run(storage, fingerprint)
    assert plan_retry(storage, PAIRS) is None
    assert plan_names(storage) == ["plan"]


def test_dead_letters_are_retried_with_their_reference_reason_and_samples(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, dead=["r1", "r4", "r7"])
    assert plan_retry(storage, PAIRS) == "retry-1"
    planned = list(read_plan(storage, "retry-1"))
    assert [entry.unit.refs for entry in planned] == [(ref(1), ref(4)), (ref(7),)]
    assert [entry.retried for entry in planned] == [(("model_error", 64_000),) * 2, (("model_error", 64_000),)]
    assert not {entry.unit.unit_id for entry in planned} & {entry.unit.unit_id for entry in read_plan(storage)}
    assert _ids_left(storage) == ["r1", "r4", "r7"]


def test_problems_of_the_listing_are_not_retried(storage: Storage) -> None:
    refs = [ref(1), ref(2), ref(1), ref(3, problem="corrupt_archive")]
    fingerprint = plan(storage, refs)
    run(storage, fingerprint, dead=["r1"])
    assert plan_retry(storage, PAIRS) == "retry-1"
    assert _ids_left(storage) == ["r1"]
    run(storage, fingerprint)
    assert plan_retry(storage, PAIRS) is None


def test_a_round_that_was_killed_goes_on_without_a_new_round(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, dead=["r1", "r4", "r7"])
    assert plan_retry(storage, PAIRS) == "retry-1"
    run(storage, fingerprint, only=lambda number: number == 0, dead=["r4"])
    assert plan_retry(storage, PAIRS) == "retry-1"
    assert _ids_left(storage) == ["r7"]
    run(storage, fingerprint)
    assert plan_retry(storage, PAIRS) == "retry-2"
    assert _ids_left(storage) == ["r4"]


def test_every_round_has_units_of_its_own(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(3)])
    for number in range(1, 5):
        run(storage, fingerprint, dead=["r1"])
        assert plan_retry(storage, PAIRS) == f"retry-{number}"
    assert len(committed_units(storage)) == 4
    assert _ids_left(storage) == ["r1"]


def test_the_latest_committed_round_counts(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(6)])
    run(storage, fingerprint, dead=["r1", "r4"])
    plan_retry(storage, PlanConfig(unit_recordings=1))
    first = left(storage)
    for unit in first:
        commit(storage, unit, fingerprint, dead=["r1", "r4"])
    plan_retry(storage, PlanConfig(unit_recordings=1))
    second = left(storage)
    commit(storage, second[0], fingerprint)
    latest = latest_units(storage, plan_names(storage), committed_units(storage))
    assert latest == {"r1": second[0].unit_id, "r4": first[1].unit_id}


def test_of_two_drivers_that_plan_a_round_one_plan_stands(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, dead=["r1", "r4"])
    names = plan_names(storage)
    assert plan_retry(storage, PAIRS) == "retry-1"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.output.retry.plan_names", lambda _: names)  # a driver that listed the plans before
        assert plan_retry(storage, PlanConfig(unit_recordings=1)) == "retry-1"
    assert plan_names(storage) == ["plan", "retry-1"]
    assert len(left(storage)) == 1
