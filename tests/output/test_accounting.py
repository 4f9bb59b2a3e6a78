"""Tests of the books: sums in whole samples, whether they close, retries count once, faults are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import PlanConfig
from pipeline.output.accounting import Tally, close_books
from pipeline.output.commit import FIGURES, commit_key, commit_record
from pipeline.output.retry import plan_retry
from pipeline.run import dead_fraction
from pipeline.schemas import REASONS, SAMPLE_RATE
from pipeline.storage.base import Storage, open_storage
from tests.support.outputs import left, plan, ref, run


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


# One recording: its length in samples, the samples of silence in it, and the reason why it failed or None.
RECORDINGS = st.tuples(st.integers(0, 10**9), st.floats(0, 1), st.none() | st.sampled_from(sorted(REASONS)[:4])).map(
    lambda item: (item[0], int(item[0] * item[1]), item[2])
)
UNITS = st.lists(st.lists(RECORDINGS, min_size=1, max_size=5), max_size=20)


def _commit(recordings: Sequence[tuple[int, int, str | None]]) -> dict[str, Any]:
    lists: dict[str, list[Any]] = {name: [0] * len(recordings) for name in FIGURES}
    lists |= {
        "rows": [0 if reason else 2 for *_, reason in recordings],
        "reason": [reason for *_, reason in recordings],
        "problem": [None for _ in recordings],
        "in": [total for total, *_ in recordings],
        "transcribed": [0 if reason else total - silence for total, silence, reason in recordings],
        "silence": [0 if reason else silence // 2 for _, silence, reason in recordings],
        "lost": [0 if reason else silence - silence // 2 for _, silence, reason in recordings],
        "dead": [total if reason else 0 for total, _, reason in recordings],
    }
    return commit_record("0" * 16, "", by_recording=lists, data={}, fingerprint="")


@settings(deadline=None, max_examples=50)
@given(UNITS, st.data())
def test_the_books_close_exactly_with_any_retries(units: list[list[tuple[int, int, str | None]]], data: Any) -> None:
    count = sum(len(unit) for unit in units)
    tally = Tally(len(units), count)
    places = []  # of the result of each recording: the commit, and the index in it
    for unit in units:
        commit = _commit(unit)
        tally.add(commit)
        places += [(commit, index) for index in range(len(unit))]
    final = [recording for unit in units for recording in unit]
    for _ in range(data.draw(st.integers(0, 3))):
        failed = [index for index, recording in enumerate(final) if recording[2]]
        if not failed:
            break
        chosen = data.draw(st.lists(st.sampled_from(failed), unique=True, min_size=1))
        again = [(final[index][0], 0, data.draw(st.none() | st.just("timeout"))) for index in chosen]
        tally.units_planned += 1
        commit = _commit(again)
        tally.add(commit)
        for place, (index, recording) in enumerate(zip(chosen, again, strict=True)):
            tally.supersede(*places[index])
            final[index], places[index] = recording, (commit, place)
    report = tally.report()
    assert report["complaints"] == []
    assert report["closed"]
    assert report["complete"]
    assert report["recordings_transcribed"] == sum(1 for *_, reason in final if not reason)
    reasons = [reason for *_, reason in final if reason]
    assert report["dead_letters"] == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert report["samples_in"] == sum(total for total, _, _ in final)
    assert report["samples_dead_lettered"] == sum(total for total, _, reason in final if reason)
    outcomes = ("transcribed", "silence", "lost", "dead_lettered")
    assert report["samples_in"] == sum(report[f"samples_{name}"] for name in outcomes)
    for name in ("in", *outcomes):  # seconds are exactly the samples
        assert round(report[f"seconds_{name}"] * SAMPLE_RATE) == report[f"samples_{name}"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"samples": {"in": 10, "transcribed": 5, "silence": 4, "dead": 0}}, "samples do not close"),
        ({"transcribed": 3}, "2 recordings planned, 3 transcribed"),
        ({"transcribed": 1}, "2 recordings planned, 1 transcribed"),
        ({"dead": {"timeout": -1}, "transcribed": 3}, "negative"),
    ],
)
def test_books_that_do_not_close_name_the_reason(change: dict[str, Any], complaint: str) -> None:
    tally = Tally(1, 2)
    tally.add(_commit([(16, 1, None), (32, 2, None)]) | change)
    report = tally.report()
    assert not report["closed"]
    assert complaint in report["complaints"][0]


def test_a_run_that_is_half_done_is_not_closed_but_has_no_complaint(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(10)])
    run(storage, fingerprint, only=lambda number: number < 2)
    report = close_books(storage)
    assert (report["closed"], report["complete"], report["complaints"]) == (False, False, [])
    assert (report["units_planned"], report["units_committed"]) == (4, 2)
    assert (report["recordings_planned"], report["recordings_pending"]) == (10, 4)
    assert report["seconds_in"] == 24


def test_a_whole_run_closes(storage: Storage) -> None:
    refs = [*(ref(number) for number in range(9)), ref("empty", problem="empty_file"), ref(4)]
    fingerprint = plan(storage, refs)
    run(storage, fingerprint, dead=["r2", "r3"])
    report = close_books(storage)
    assert report["closed"]
    assert report["recordings_planned"] == 11
    assert report["recordings_transcribed"] == 7
    assert report["dead_letters"] == {"duplicate_id": 1, "empty_file": 1, "model_error": 2}
    assert (report["seconds_in"], report["seconds_transcribed"]) == (36, 21)
    assert (report["seconds_silence"] + report["seconds_lost"], report["seconds_dead_lettered"]) == (7, 8)
    assert report["segments"] == 14


def test_a_retried_recording_is_counted_once(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, dead=["r2", "r3", "r8"])
    before = close_books(storage)
    plan_retry(storage, PlanConfig(unit_recordings=2))
    planned = close_books(storage)
    assert planned["closed"]  # the retries have no results yet, so the dead letters count
    assert not planned["complete"]
    run(storage, fingerprint, dead=["r8"])
    report = close_books(storage)
    assert report["closed"]
    assert report["complete"]
    assert report["recordings_transcribed"] == before["recordings_transcribed"] + 2 == 8
    assert report["dead_letters"] == {"model_error": 1}
    assert report["seconds_in"] == before["seconds_in"] == 36
    assert report["seconds_dead_lettered"] == 4


def test_an_archive_that_cannot_be_read_weighs_by_its_bytes() -> None:
    lists: dict[str, list[Any]] = {name: [0] * 5 for name in FIGURES}
    lists |= {"rows": [1] * 4 + [0], "reason": [None] * 4 + ["corrupt_archive"], "problem": [None] * 5}
    lists |= {"source_bytes": [1000] * 4 + [0], "unread_bytes": [0] * 4 + [36_000]}
    tally = Tally(1, 5)
    tally.add(commit_record("0" * 16, "", by_recording=lists, data={}, fingerprint=""))
    report = tally.report()
    assert report["closed"]
    assert (report["bytes_in"], report["bytes_unread"], report["recordings_unread"]) == (40_000, 36_000, 35)
    assert dead_fraction(report) == 36 / 40


def test_commits_that_belong_to_no_plan_are_a_complaint(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(1)])
    run(storage, fingerprint)
    stored = storage.get(next(storage.list("commits/")))
    unit_id = next(storage.list("commits/"))[-21:-5]
    storage.put(commit_key("f" * 16), stored.replace(unit_id.encode(), b"f" * 16))
    report = close_books(storage)
    assert report["complaints"] == ["1 commits belong to no plan"]
    assert not report["closed"]
    assert left(storage) == []
