"""What reports read from published tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.output.publish import publish_tables
from pipeline.output.tables import Line, joined, sample_letters, sample_lines
from pipeline.storage.base import Storage, open_storage
from tests.support.outputs import plan, ref, run


@pytest.fixture
def published(tmp_path: Path) -> Storage:
    """Twelve recordings in four units and, as parts are small, several parts; two dead letters."""
    storage = open_storage(str(tmp_path / "out"))
    fingerprint = plan(storage, [ref(number, language=None if number == 3 else "de") for number in range(12)])
    run(storage, fingerprint, dead=["r4", "r9"])
    publish_tables(storage)
    return storage


def test_a_line_joins_the_segments_of_a_recording(published: Storage) -> None:
    assert sample_lines(published, 1) == [Line("r0", "de", "hallo hallo", 0.5)]


@pytest.mark.parametrize(("limit", "count"), [(3, 3), (10, 10), (99, 10)])
def test_as_many_recordings_as_wanted_in_their_order(published: Storage, limit: int, count: int) -> None:
    names = [f"r{number}" for number in range(12) if number not in (4, 9)]
    lines = sample_lines(published, limit)
    assert [line.recording_id for line in lines] == names[:count]
    assert all(line.text == "hallo hallo" for line in lines)


def test_the_confidence_of_a_recording_weighs_its_text() -> None:
    assert joined([("abc", 1.0), ("a", 0.2)]) == ("abc a", pytest.approx(0.8))
    assert joined([("abc", 1.0), ("de", None)]) == ("abc de", 1.0)
    assert joined([("", None)]) == ("", None)


@pytest.mark.parametrize(("limit", "names"), [(1, ["r4"]), (9, ["r4", "r9"])])
def test_dead_letters_in_order(published: Storage, limit: int, names: list[str]) -> None:
    letters = sample_letters(published, limit)
    assert [letter["recording_id"] for letter in letters] == names
    assert letters[0]["reason"] == "model_error"


def test_nothing_published_is_nothing_to_show(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    assert (sample_lines(storage, 5), sample_letters(storage, 5)) == ([], [])
