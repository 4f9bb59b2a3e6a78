"""Beside the bootstrap: the matched-pairs test, correction for many languages, the smallest difference to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from pipeline.evaluation.bootstrap import block_sums

POWER = 0.8
_NORMAL = NormalDist()


def mapsswe(new: ArrayLike, old: ArrayLike) -> float | None:
    """Two-sided p of the matched-pairs sentence-segment word error test (Gillick & Cox 1989; `sc_stats -t mapsswe`).

    new, old: [recordings], errors. None where it is undefined: fewer than two recordings, or the same difference in
    all of them. Differs from sc_stats: a segment is a whole recording instead of what lies between two words that both
    systems got right, so it has fewer and longer segments; recordings of one speaker count as independent in both.
    """
    worse = np.asarray(new, float) - np.asarray(old, float)
    if len(worse) < 2 or not (spread := worse.std(ddof=1)):
        return None
    return 2 * _NORMAL.cdf(-abs(float(worse.mean() / spread)) * len(worse) ** 0.5)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given: below alpha by chance is any of them with probability alpha."""
    adjusted, reached = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        reached = max(reached, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = reached
    return adjusted


def detectable(
    new: ArrayLike, old: ArrayLike, units: ArrayLike, blocks: Sequence[str], *, alpha: float, power: float = POWER
) -> float:
    """Smallest true difference of the rates that a one-sided test at `alpha` finds with the probability `power`.

    new, old, units, blocks: [recordings], as in `bootstrap.paired`, with at least two blocks. Their paired spread over
    blocks is taken as seen, and the lost units themselves add that of a count: one as large as their number. A loss
    that sets speakers further apart besides is found less often. alpha, power: in (0, 1), alpha at most 0.5.
    """
    new_B, old_B, units_B = block_sums(blocks, new, old, units)
    freedom = len(units_B) - 1
    worse_B = new_B - old_B
    rate = worse_B.sum() / units_B.sum()
    # linearised: a ratio of sums over blocks of unequal size
    variance = np.square(worse_B - rate * units_B).sum() * (1 + 1 / freedom) / units_B.sum() ** 2
    z = -_NORMAL.inv_cdf(alpha)
    student = z + (z**3 + z) / (4 * freedom)  # Student's t to the first order: 1.68 for 1.645 with 40 blocks
    square = (student + _NORMAL.inv_cdf(power)) ** 2
    added = square / units_B.sum()
    return float(added + np.sqrt(added**2 + 4 * square * variance)) / 2  # d = sqrt(square * (variance + d / units))
