"""Tests of retries: which recordings are retried, rounds go on after a kill, the latest result counts."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from pipeline.config import PlanConfig
from pipeline.output.accounting import close_books
from pipeline.output.commit import committed_units
from pipeline.output.publish import publish_tables
from pipeline.output.retry import plan_retry
from pipeline.output.rounds import current_results
from pipeline.output.tables import published_rows
from pipeline.planning.plan import plan_names, read_plan
from pipeline.storage.base import Storage, open_storage
from pipeline.storage.local import LocalStorage
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


def test_dead_letters_are_retried_with_their_reference_and_a_pointer_to_their_result(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, dead=["r1", "r4", "r7"])
    assert plan_retry(storage, PAIRS) == "round-1"
    planned = list(read_plan(storage, "round-1"))
    assert [entry.unit.refs for entry in planned] == [(ref(1), ref(4)), (ref(7),)]
    first, second, third = (entry.unit.unit_id for entry in read_plan(storage))
    assert [entry.earlier for entry in planned] == [((first, 1), (second, 1)), ((third, 1),)]
    assert not {entry.unit.unit_id for entry in planned} & {entry.unit.unit_id for entry in read_plan(storage)}
    assert _ids_left(storage) == ["r1", "r4", "r7"]


def test_problems_of_the_listing_are_not_retried(storage: Storage) -> None:
    refs = [ref(1), ref(2), ref(1), ref(3, problem="corrupt_archive")]
    fingerprint = plan(storage, refs)
    run(storage, fingerprint, dead=["r1"])
    assert plan_retry(storage, PAIRS) == "round-1"
    assert _ids_left(storage) == ["r1"]
    run(storage, fingerprint)
    assert plan_retry(storage, PAIRS) is None


def test_a_round_that_was_killed_goes_on_without_a_new_round(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, dead=["r1", "r4", "r7"])
    assert plan_retry(storage, PAIRS) == "round-1"
    run(storage, fingerprint, only=lambda number: number == 0, dead=["r4"])
    assert plan_retry(storage, PAIRS) == "round-1"
    assert _ids_left(storage) == ["r7"]
    run(storage, fingerprint)
    assert plan_retry(storage, PAIRS) == "round-2"
    assert _ids_left(storage) == ["r4"]


def test_every_round_has_units_of_its_own(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(3)])
    for number in range(1, 5):
        run(storage, fingerprint, dead=["r1"])
        assert plan_retry(storage, PAIRS) == f"round-{number}"
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
    results = current_results(storage, plan_names(storage), committed_units(storage))
    assert results.current == {"r1": (second[0].unit_id, 0), "r4": (first[1].unit_id, 0)}
    assert len(results.superseded) == 3


class Meeting(LocalStorage):
    """A directory where two commits are read at the same time. Alone, a read fails."""

    parallel = 2

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._barrier = Barrier(self.parallel, timeout=60)

    def get(self, key: str) -> bytes:
        if key.startswith("commits/"):
            self._barrier.wait()
        return super().get(key)


def test_the_results_of_a_round_and_those_before_are_read_at_the_same_time(storage: Storage, tmp_path: Path) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(6)])
    run(storage, fingerprint, dead=["r1", "r4"])
    plan_retry(storage, PlanConfig(unit_recordings=1))
    run(storage, fingerprint)
    first, second = read_plan(storage, "round-1")
    results = current_results(Meeting(tmp_path / "out"), plan_names(storage), committed_units(storage))
    assert results.current == {"r1": (first.unit.unit_id, 0), "r4": (second.unit.unit_id, 0)}


@pytest.mark.parametrize(
    ("first", "again", "seconds", "counts"),
    [
        ({"damaged": {"r1": 2}}, {}, (4, 4, 0, 0), {}),  # repaired
        ({"damaged": {"r1": 2}}, {"damaged": {"r1": 1}}, (4, 3, 1, 0), {"truncated_audio": 1}),
        ({"damaged": {"r1": 1}}, {"damaged": {"r1": 2}}, (4, 3, 1, 0), {"truncated_audio": 1}),  # the first is better
        ({"damaged": {"r1": 1}}, {"dead": ["r1"]}, (4, 3, 1, 0), {"truncated_audio": 1}),
    ],
)
def test_of_a_damaged_recording_the_better_result_counts_in_the_tables_and_in_the_books(
    storage: Storage,
    first: dict[str, Any],
    again: dict[str, Any],
    seconds: tuple[int, ...],
    counts: dict[str, int],
) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(6)])
    run(storage, fingerprint, **first)
    assert plan_retry(storage, PAIRS) is None  # no dead letter
    assert plan_retry(storage, PAIRS, "damaged") == "round-1"
    assert _ids_left(storage) == ["r1"]
    run(storage, fingerprint, text="noch einmal", **again)
    publish_tables(storage)
    rows = list(published_rows(storage, "transcripts", ["recording_id", "problem"]))
    assert [row["recording_id"] for row in rows] == [f"r{number // 2}" for number in range(12)]
    assert [row["problem"] for row in rows if row["problem"]] == 2 * list(counts)
    assert not list(published_rows(storage, "dead_letters", ["recording_id"]))
    books = close_books(storage)
    assert books == json.loads(storage.get("_run/accounting.json"))
    assert books["closed"]
    assert books["damaged"] == counts
    assert books["seconds_in"] == 24
    heard = books["seconds_transcribed"] + books["seconds_silence"] - 20
    assert (books["seconds_in"] - 20, heard, books["seconds_lost"], books["seconds_dead_lettered"]) == seconds
    assert books["segments"] == 12


def test_a_file_that_was_missing_when_it_was_listed_is_retried_once_it_is_there(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = tmp_path / "late.wav"
    missing = [
        ref(name, source_uri=str(uri), source_member=None, offset=None, problem="missing_file")
        for name, uri in (("late", late), ("gone", tmp_path / "gone.wav"))
    ]
    fingerprint = plan(storage, missing)
    run(storage, fingerprint)
    assert plan_retry(storage, PAIRS) is None
    late.write_bytes(b"RIFF")
    assert plan_retry(storage, PAIRS) == "round-1"
    assert _ids_left(storage) == ["rlate"]
    assert "1 dead letters come from the listing" in caplog.text
    run(storage, fingerprint)
    publish_tables(storage)
    assert {row["recording_id"] for row in published_rows(storage, "transcripts", ["recording_id"])} == {"rlate"}
    assert close_books(storage)["dead_letters"] == {"missing_file": 1}


def test_of_two_drivers_that_plan_a_round_one_plan_stands(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, dead=["r1", "r4"])
    names = plan_names(storage)
    assert plan_retry(storage, PAIRS) == "round-1"
    with monkeypatch.context() as patch:
        seen = iter([names])  # a driver that listed the plans before the other one wrote the round
        patch.setattr("pipeline.output.retry.plan_names", lambda storage: next(seen, None) or plan_names(storage))
        assert plan_retry(storage, PlanConfig(unit_recordings=1)) == "round-1"
    assert plan_names(storage) == ["plan", "round-1"]
    assert len(left(storage)) == 1
