"""Beside the bootstrap: the matched-pairs test, correction for many languages, the smallest difference to be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pipeline.evaluation.bootstrap import block_sums

POWER = 0.8


def mapsswe(new: ArrayLike, old: ArrayLike) -> float | None:
    """Two-sided p of the matched-pairs sentence-segment word error test (Gillick & Cox 1989; `sc_stats -t mapsswe`).

    new, old: [recordings], errors. None where it is undefined: fewer than two recordings, or the same difference in
    all of them. Differs from sc_stats: a segment is a whole recording instead of what lies between two words that both
    systems got right, so it has fewer and longer segments; recordings of one speaker count as independent in both.
    """
    worse = np.asarray(new, float) - np.asarray(old, float)
    if len(worse) < 2 or not (spread := worse.std(ddof=1)):
        return None
    return float(2 * stats.norm.sf(abs(worse.mean() / spread) * len(worse) ** 0.5))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p, in the order given.

    Where no system is worse, the chance that any of the results is below alpha is at most alpha. scipy has no such
    function. That of statsmodels brings five more packages and takes 0.3 s a call beside PyTorch (measured, 0.15.0: it
    collects all garbage each time), so the simulations of false alarms could not run it.
    """
    order = np.argsort(p)
    steps = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(one) for one in adjusted]


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
    square = (stats.t.isf(alpha, freedom) + stats.norm.ppf(power)) ** 2
    added = square / units_B.sum()
    return float(added + np.sqrt(added**2 + 4 * square * variance)) / 2  # d = sqrt(square * (variance + d / units))
