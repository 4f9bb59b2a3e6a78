"""A sample of the recordings that are left to do, drawn by their size, and their sums, in one pass over the plan."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.forecast.forecast import KINDS, SEED, Kind, Total, kind_of
from pipeline.schemas import RecordingRef, WorkUnit

AT_LEAST = 2  # recordings of each kind, where there are as many


@dataclass(slots=True)
class Sample:
    """What is left to do, and a sample of its recordings.

    refs: one of each kind first, then the rest in random order. times: how often each was drawn, by its id; without
    those of a kind that is in the sample as a whole.
    """

    units: int
    totals: dict[Kind, Total]
    refs: list[RecordingRef]
    times: dict[str, int] = field(default_factory=dict)


class _Draws:
    """Recordings of one kind, drawn with replacement: in each draw the probability is in proportion to the extent."""

    def __init__(self, wanted: int, dice: random.Random) -> None:
        self.total = Total()
        self.first: list[RecordingRef] = []  # so many as are wanted: if there are no more, they are the sample
        self.drawn: list[RecordingRef] = []
        self._wanted, self._dice = wanted, dice

    def offer(self, ref: RecordingRef, extent: float) -> None:
        """The next recording takes the place of each earlier draw with its share of all extents so far."""
        self.total = self.total.plus(extent)
        if len(self.first) < self._wanted:
            self.first.append(ref)
        share = extent / self.total.extent
        self.drawn = [ref if self._dice.random() < share else old for old in self.drawn or [ref] * self._wanted]

    def take(self, wanted: int) -> tuple[list[RecordingRef], dict[str, int]]:
        """Distinct recordings of so many draws in random order, and how often each was drawn; {}: it is all of them."""
        if self.total.recordings <= wanted:
            return self._dice.sample(self.first, len(self.first)), {}
        times = Counter(ref.recording_id for ref in self.drawn[:wanted])
        chosen = list({ref.recording_id: ref for ref in self.drawn[:wanted]}.values())
        return self._dice.sample(chosen, len(chosen)), dict(times)


def draw(units: Iterable[WorkUnit], wanted: int) -> Sample:
    """Read `units` once; sum their recordings and draw up to `wanted` of them. The same plan gives the same sample.

    Of each kind there are as many draws as its share of all extents, and at least AT_LEAST. Recordings that the plan
    already knows to be unreadable are neither counted nor drawn.
    """
    dice = random.Random(SEED)
    kinds = {kind: _Draws(wanted, dice) for kind in KINDS}
    count = 0
    for unit in units:
        count += 1
        for ref in unit.refs:
            if not ref.problem:
                kind, extent = kind_of(ref)
                kinds[kind].offer(ref, extent)
    totals = {kind: draws.total for kind, draws in kinds.items()}
    everything = sum(total.extent for total in totals.values())
    sample = Sample(count, totals, [])
    rest: list[RecordingRef] = []
    for draws in kinds.values() if wanted else ():
        if draws.total.recordings:
            share = max(AT_LEAST, round(wanted * draws.total.extent / everything))
            chosen, times = draws.take(min(wanted, share))
            sample.refs += chosen[:1]
            rest += chosen[1:]
            sample.times |= times
    dice.shuffle(rest)
    sample.refs = [*sample.refs, *rest][:wanted]
    return sample
