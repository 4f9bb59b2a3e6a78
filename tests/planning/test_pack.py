"""Tests of packing: limits of units, ids from content, duplicates, assignment to published parts."""

from __future__ import annotations

import io
import itertools
import math
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.track import AudioTrack
from pipeline.config import PlanConfig, SourceConfig
from pipeline.config_file import PACKAGE
from pipeline.planning.lengths import expected_seconds
from pipeline.planning.pack import mark_duplicates, pack_units, unit_id, with_parts
from pipeline.schemas import RecordingRef
from pipeline.sources.formats import list_recordings, read_recording
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
    return math.fsum(expected_seconds(item) for item in good), sum(item.size for item in good)


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
    refs = [ref(number, seconds=None, size=8_800 * 150) for number in range(10)]  # flac of 150 s, ten rows each
    assert [entry.part for entry in with_parts(pack_units(refs, PlanConfig(unit_recordings=1)), 50)] == [0] * 5 + [
        1
    ] * 5


@settings(deadline=None, max_examples=50)
@given(REFS, CONFIGS, st.integers(1, 40))
def test_a_small_source_makes_units_for_all_replicas_and_a_large_one_keeps_its_units(
    refs: list[RecordingRef], config: PlanConfig, at_least: int
) -> None:
    marked = list(mark_duplicates(refs))
    usual, units = list(pack_units(marked, config)), list(pack_units(marked, config, at_least=at_least))
    assert [item for unit in units for item in unit.refs] == marked
    if len(usual) >= at_least:
        assert units == usual
    else:
        most = sum(expected_seconds(item) > 0 for item in marked)
        assert len(units) >= max(len(usual), min(at_least, most))


def test_small_units_have_about_the_same_seconds() -> None:
    refs = [ref(number, seconds=10.0) for number in range(64)]
    units = list(pack_units(refs, PlanConfig(), at_least=16))
    assert [len(unit.refs) for unit in units] == [4] * 16


def test_packing_for_replicas_streams() -> None:
    listed = 0

    def listing() -> Iterator[RecordingRef]:
        nonlocal listed
        for number in range(10_000):
            listed += 1
            yield ref(number, seconds=100.0)

    next(pack_units(listing(), PlanConfig(unit_seconds=1_000, unit_recordings=100), at_least=4))
    assert listed <= 200


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus"])
def test_seconds_that_are_not_declared_are_estimated_from_bytes_and_rather_too_long(form: str) -> None:
    """The recordings of the sample, in the forms that it has. What nobody declares must not make units too long."""
    found = 0
    for item in list_recordings(SourceConfig(uri=str(PACKAGE / "assets/sample/shard-00[0-2].tar"))):
        if (item.source_member or "").endswith(f".{form}") and "long" not in item.recording_id:
            with AudioTrack(io.BytesIO(read_recording(item).audio), item.recording_id) as track:  # type: ignore[arg-type]
                seconds = track.container.duration / 1e6
            assert seconds * 0.9 <= expected_seconds(item) <= seconds * 8
            found += 1
    assert found > 1


def test_a_recording_of_which_nothing_is_known_counts_as_half_a_minute() -> None:
    assert expected_seconds(ref(1, seconds=None, size=0)) == 30
    assert expected_seconds(ref(1, seconds=None, size=8_000, source_member="rg0:1:audio")) == 2
    signed = ref(1, seconds=None, source_member=None, source_uri="https://h/a.OPUS?x=1.b", size=3_600)
    assert expected_seconds(signed) == 2
    assert expected_seconds(ref(1, problem="empty_file")) == 0
