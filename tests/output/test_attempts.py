"""Markers of attempts: which units become suspects, and when markers are deleted."""

from __future__ import annotations

from pathlib import Path

from pipeline.output.attempts import MAX_ATTEMPTS, PREFIX, Attempts, forget_all
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


def test_all_markers_can_be_deleted(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    Attempts(storage, "decode").condemn("a" * 16)
    forget_all(storage)
    assert Attempts(storage, "decode").begin("a" * 16)
