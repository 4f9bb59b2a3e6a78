"""Tests of the sample: random, the same each time, something of every kind, sums of all."""

from __future__ import annotations

from collections import Counter

from pipeline.forecast.sample import Sample, draw
from pipeline.planning.pack import pack_units
from pipeline.schemas import RecordingRef
from tests.support.outputs import UNITS, ref


def sample(refs: list[RecordingRef], wanted: int) -> Sample:
    return draw(pack_units(refs, UNITS), wanted)


def test_a_sample_is_drawn_from_everywhere_and_the_same_each_time() -> None:
    refs = [ref(number) for number in range(1_000)]
    drawn = sample(refs, 50)
    assert (drawn.units, drawn.totals["seconds"].recordings, drawn.totals["seconds"].extent) == (334, 1_000, 4_000.0)
    assert drawn.refs == sample(refs, 50).refs
    numbers = [int(item.recording_id[1:]) for item in drawn.refs]
    assert sum(drawn.times.values()) == 50
    assert len(set(numbers)) == len(numbers) > 40
    assert numbers != sorted(numbers)
    quarters = Counter(number // 250 for number in numbers)
    assert min(quarters[quarter] for quarter in range(4)) >= 5


def test_a_recording_is_drawn_in_proportion_to_its_seconds_wherever_it_stands() -> None:
    """The draws are seeded: shifted listings stand for other seeds."""
    chosen: Counter[int] = Counter()
    for shift in range(200):
        numbers = [(number + shift) % 40 for number in range(40)]
        drawn = sample([ref(number, seconds=4.0 if number % 4 else 12.0) for number in numbers], 8)
        chosen.update({int(name[1:]): times for name, times in drawn.times.items()})
    assert chosen.total() == 1_600
    long, short = (sum(chosen[number] for number in range(40) if (number % 4 == 0) == is_long) for is_long in (1, 0))
    assert 0.9 < long / short < 1.1  # ten of 12 s, thirty of 4 s
    assert min(chosen.values()) > 8


def test_every_kind_has_its_share_and_at_least_one() -> None:
    refs = [ref(number) for number in range(90)] + [ref(100, seconds=None), ref(101, seconds=None, size=0)]
    drawn = sample(refs, 10)
    assert len(drawn.refs) <= 10
    kinds = [(item.seconds is not None, item.size > 0) for item in drawn.refs]
    assert set(kinds[:3]) == {(True, True), (False, True), (False, False)}
    assert len(sample(refs[:3], 10).refs) == 3
    assert sample(refs[:3], 10).times == {}  # all of them, so none was drawn
    assert sample(refs, 0).refs == []


def test_what_is_known_to_be_unreadable_is_neither_counted_nor_drawn() -> None:
    drawn = sample([ref(1), ref(2, problem="empty_file"), ref(3, seconds=None, problem="missing_file")], 10)
    assert [item.recording_id for item in drawn.refs] == ["r1"]
    assert sum(total.recordings for total in drawn.totals.values()) == 1
