"""Markers of attempts: which units become suspects, and when markers are deleted."""

from __future__ import annotations

from pathlib import Path

from pipeline.output.attempts import ENDED, MAX_ATTEMPTS, PREFIX, Attempts, end_run, forget_innocent
from pipeline.storage.base import open_storage


def test_an_attempt_that_ends_leaves_no_marker(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    attempts = Attempts(storage, "decode")
    for _ in range(MAX_ATTEMPTS + 2):
        assert attempts.begin("a" * 16)
        attempts.end("a" * 16)
    assert list(storage.list(PREFIX)) == []


def test_three_attempts_that_do_not_end_make_the_unit_a_suspect_in_that_stage_only(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    for _ in range(MAX_ATTEMPTS):
        assert Attempts(storage, "decode").begin("a" * 16)  # each in a process that dies
    assert not Attempts(storage, "decode").begin("a" * 16)
    assert Attempts(storage, "decode").begin("b" * 16)
    assert Attempts(storage, "model").begin("a" * 16)
    assert len(list(storage.list(PREFIX))) == MAX_ATTEMPTS + 2


def test_an_attempt_that_ends_also_deletes_the_markers_of_earlier_crashes(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    for _ in range(MAX_ATTEMPTS - 1):
        Attempts(storage, "decode").begin("a" * 16)
    last = Attempts(storage, "decode")
    assert last.begin("a" * 16)
    last.end("a" * 16)
    assert list(storage.list(PREFIX)) == []


def test_a_unit_that_hangs_is_a_suspect_at_once(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    attempts = Attempts(storage, "decode")
    attempts.begin("a" * 16)
    attempts.condemn("a" * 16)
    assert not Attempts(storage, "decode").begin("a" * 16)


def test_runs_that_were_stopped_make_no_suspect_and_those_that_were_killed_do(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    for number in range(2 * MAX_ATTEMPTS):
        forget_innocent(storage, frozenset())  # as each run does at its start
        for unit in ("a", "b"):
            assert Attempts(storage, "decode", f"stopped{number}").begin(unit * 16 + ".0")
        end_run(storage, f"stopped{number}")
    for number in range(MAX_ATTEMPTS):
        forget_innocent(storage, frozenset())
        assert Attempts(storage, "decode", f"killed{number}").begin("a" * 16 + ".0")
    forget_innocent(storage, frozenset())
    assert not Attempts(storage, "decode", "last").begin("a" * 16 + ".0")
    assert Attempts(storage, "decode", "last").begin("b" * 16 + ".0")
    assert list(storage.list(ENDED)) == []


def test_a_unit_that_hangs_stays_a_suspect_after_its_run_was_stopped(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    Attempts(storage, "decode", "run").condemn("a" * 16 + ".0")
    end_run(storage, "run")
    forget_innocent(storage, frozenset())
    assert not Attempts(storage, "decode", "next").begin("a" * 16 + ".0")


def test_markers_of_committed_units_are_deleted(tmp_path: Path) -> None:
    """Whoever would have deleted them was killed."""
    storage = open_storage(str(tmp_path / "out"))
    for unit in ("a", "b"):
        for piece in range(3):
            Attempts(storage, "model", "killed").begin(f"{unit * 16}.{piece}")
    forget_innocent(storage, {"a" * 16})
    assert {marker.split("/")[2] for marker in storage.list(PREFIX)} == {f"{'b' * 16}.{piece}" for piece in range(3)}
