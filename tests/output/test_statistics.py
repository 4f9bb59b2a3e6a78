"""What the report counts in published tables, checked by hand and against a plain count of rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.output.publish import publish_tables
from pipeline.output.statistics import BINS, LanguageFigures, chosen_rows, statistics_of
from pipeline.output.tables import published_rows
from pipeline.storage.base import Storage, open_storage
from tests.support.outputs import commit, left, plan, ref


@pytest.fixture
def published(tmp_path: Path) -> Storage:
    """Twelve recordings in four units and several parts; the units have 1 to 4 segments of each recording."""
    storage = open_storage(str(tmp_path / "out"))
    fingerprint = plan(storage, [ref(number, language=None if number == 3 else "de") for number in range(12)])
    for segments, unit in enumerate(left(storage), 1):
        commit(storage, unit, fingerprint, dead=["r4", "r9"], segments=segments)
    publish_tables(storage)
    return storage


def test_every_segment_is_counted_once(published: Storage) -> None:
    rows = list(published_rows(published, "transcripts", ["language", "start_ms", "end_ms", "steps"]))
    found = statistics_of(published, slowest=3, sample=5)
    for name, language in (("de", "de"), ("unknown", None)):
        chosen = [row for row in rows if row["language"] == language]
        one = found.languages[name]
        assert (one.segments, one.milliseconds) == (len(chosen), sum(row["end_ms"] - row["start_ms"] for row in chosen))
        assert one.confident.sum() == len(chosen)
    assert found.steps == Counter(row["steps"] for row in rows)
    assert list(found.languages) == ["de", "unknown"]  # most audio first


def test_the_slowest_are_those_with_most_steps_of_all_parts(published: Storage) -> None:
    found = statistics_of(published, slowest=3, sample=0).slowest
    assert [(one.recording_id, one.steps, one.seconds) for one in found] == [
        ("r10", 12, 3.6),
        ("r11", 12, 3.6),
        ("r6", 9, 2.7),
    ]


@pytest.mark.parametrize(("sample", "count"), [(0, 0), (4, 4), (99, 10)])
def test_a_sample_has_whole_recordings_of_any_part(published: Storage, sample: int, count: int) -> None:
    found = statistics_of(published, slowest=0, sample=sample)
    rows = list(chosen_rows(published, found.chosen, ["text", "segment_index"]))
    assert len({each[0]["recording_id"] for each in rows}) == len(rows) == count
    segments = Counter(row["recording_id"] for row in published_rows(published, "transcripts", ["recording_id"]))
    assert all(len(each) == segments[each[0]["recording_id"]] for each in rows)
    assert all(len({row["recording_id"] for row in each}) == 1 for each in rows)


def test_nothing_published_is_nothing_to_count(tmp_path: Path) -> None:
    found = statistics_of(open_storage(str(tmp_path / "out")), slowest=3, sample=5)
    assert (found.languages, found.steps, found.slowest, found.chosen) == ({}, {}, [], {})


def test_a_quantile_is_that_of_the_segments() -> None:
    values = np.random.default_rng(0).beta(5, 2, 1000)
    one = LanguageFigures(confident=np.histogram(values, BINS, (0, 1))[0])
    for fraction in (0.1, 0.5, 0.9):
        assert one.quantile(fraction) == pytest.approx(np.quantile(values, fraction), abs=1 / BINS)
    assert LanguageFigures().quantile(0.5) is None
