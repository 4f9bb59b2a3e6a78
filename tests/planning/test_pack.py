"""Tests of packing: limits of units, ids from content, duplicates, assignment to published parts."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import PlanConfig
from pipeline.planning.pack import mark_duplicates, pack_units, unit_id, with_parts
from pipeline.schemas import RecordingRef
from tests.support.outputs import ref

REFS = st.lists(
    st.builds(
        ref,
        st.integers(0, 30),
        seconds=st.none() | st.floats(0, 500),
        size=st.integers(0, 3_000_000),
        problem=st.none() | st.just("missing_file"),
        sidecars=st.lists(st.tuples(st.text(max_size=5), st.integers(0, 2**40), st.integers(0, 9)), max_size=2).map(
            tuple
        ),
        metadata=st.none() | st.text(max_size=20),
        channel=st.none() | st.integers(0, 7),
    ),
    max_size=60,
)
CONFIGS = st.builds(
    PlanConfig,
    unit_seconds=st.floats(1, 900),
    unit_megabytes=st.floats(0.5, 8),
    unit_recordings=st.integers(1, 12),
)


def _load(refs: tuple[RecordingRef, ...]) -> tuple[float, int]:
    good = [item for item in refs if not item.problem]
    return math.fsum(item.seconds or 0 for item in good), sum(item.size for item in good)


@settings(deadline=None, max_examples=50)
@given(REFS, CONFIGS)
def test_packing_loses_nothing_keeps_the_order_and_every_limit(refs: list[RecordingRef], config: PlanConfig) -> None:
    marked = list(mark_duplicates(refs))
    units = list(pack_units(iter(marked), config))
    assert [item for unit in units for item in unit.refs] == marked
    assert len({unit.unit_id for unit in units}) == len(units)
    for unit in units:
        assert 1 <= len(unit.refs) <= config.unit_recordings
        if len([item for item in unit.refs if _load((item,)) > (0, 0)]) > 1:
            seconds, size = _load(unit.refs)
            assert seconds <= config.unit_seconds * (1 + 1e-12)
            assert size <= config.unit_megabytes * 1e6
    for unit, following in itertools.pairwise(units):  # the next recording did not fit
        seconds, size = _load((*unit.refs, following.refs[0]))
        full = len(unit.refs) == config.unit_recordings
        assert full or seconds > config.unit_seconds * (1 - 1e-12) or size > config.unit_megabytes * 1e6


@settings(deadline=None, max_examples=50)
@given(REFS)
def test_only_the_first_of_equal_ids_is_valid(refs: list[RecordingRef]) -> None:
    marked = list(mark_duplicates(refs))
    first: set[str] = set()
    for item, result in zip(refs, marked, strict=True):
        if item.recording_id in first:
            assert result.problem == "duplicate_id"
        else:
            assert result == item
        first.add(item.recording_id)


@pytest.mark.parametrize("change", [{"size": 1001}, {"version": "v2"}, {"language": None}, {"offset": None}])
def test_a_unit_id_follows_the_content_of_its_refs(change: dict[str, object]) -> None:
    assert unit_id([ref(1), ref(2)]) == unit_id([ref(1), ref(2)])
    assert unit_id([ref(1), ref(2)]) != unit_id([ref(1), ref(2, **change)])
    assert unit_id([ref(1), ref(2)]) != unit_id([ref(2), ref(1)])
    assert unit_id([ref(1)]) != unit_id([ref(1)], number=1)
    assert len(unit_id([ref(1)])) == 16


def test_the_same_recording_listed_many_times_gives_distinct_units() -> None:
    units = list(pack_units(mark_duplicates([ref(1)] * 5), PlanConfig(unit_recordings=1)))
    assert len({unit.unit_id for unit in units}) == 5
    assert [unit.refs[0].problem for unit in units] == [None] + ["duplicate_id"] * 4


def test_ranges_of_a_recording_count_their_own_seconds() -> None:
    ranges = [ref(number, seconds=3600.0, start_ms=0, end_ms=200_000) for number in range(6)]
    units = pack_units(ranges, PlanConfig(unit_seconds=600))
    assert [len(unit.refs) for unit in units] == [3, 3]


def test_parts_have_about_as_many_rows_as_wanted() -> None:
    refs = [ref(number, seconds=45.0) for number in range(100)]  # three rows each
    parts = Counter(entry.part for entry in with_parts(pack_units(refs, PlanConfig(unit_recordings=2)), 60))
    assert parts == dict.fromkeys(range(5), 10)


def test_parts_of_recordings_without_a_declared_length_follow_their_size() -> None:
    refs = [ref(number, seconds=None, size=16_000 * 150) for number in range(10)]  # 150 s, ten rows each
    assert [entry.part for entry in with_parts(pack_units(refs, PlanConfig(unit_recordings=1)), 50)] == [0] * 5 + [
        1
    ] * 5
