"""A random sample of the recordings that are left to do, and their sums, in one pass over the plan."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.forecast.forecast import KINDS, SEED, Kind, Total, kind_of
from pipeline.schemas import RecordingRef, WorkUnit

AT_LEAST = 2  # recordings of each kind, where there are as many


@dataclass(slots=True)
class Sample:
    """What is left to do, and a random sample of its recordings.

    refs: one of each kind first, then the rest in random order; of each kind about its share of all recordings.
    """

    units: int
    totals: dict[Kind, Total]
    refs: list[RecordingRef]


def draw(units: Iterable[WorkUnit], wanted: int) -> Sample:
    """Read `units` once; sum their recordings and draw up to `wanted` of them. The same plan gives the same sample.

    Recordings that the plan already knows to be unreadable are neither counted nor drawn.
    """
    totals: dict[Kind, Total] = {kind: Total() for kind in KINDS}
    drawn: dict[Kind, list[RecordingRef]] = {kind: [] for kind in KINDS}
    dice = random.Random(SEED)
    count = 0
    for unit in units:
        count += 1
        for ref in unit.refs:
            if ref.problem:
                continue
            kind, extent = kind_of(ref)
            totals[kind] = totals[kind].plus(extent)
            if len(drawn[kind]) < wanted:
                drawn[kind].append(ref)
            elif (place := int(dice.random() * totals[kind].recordings)) < wanted:
                drawn[kind][place] = ref
    everything = sum(total.recordings for total in totals.values())
    firsts, rest = [], []
    for kind, refs in drawn.items():
        share = max(AT_LEAST, round(wanted * totals[kind].recordings / everything)) if refs else 0
        chosen = dice.sample(refs, min(len(refs), wanted, share))
        firsts += chosen[:1]
        rest += chosen[1:]
    dice.shuffle(rest)
    return Sample(count, totals, [*firsts, *rest][:wanted])
