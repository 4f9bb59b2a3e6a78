"""Beside the bootstrap: the matched-pairs test, Holm's correction, and the smallest difference that is detectable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pipeline.evaluation.bootstrap import block_sums

POWER = 0.8


def mapsswe(new: ArrayLike, old: ArrayLike) -> float | None:
    """Two-sided p of the matched-pairs sentence-segment word error test (Gillick & Cox 1989; `sc_stats -t mapsswe`).

    new, old: [recordings], errors of each system. None where it is undefined: with fewer than two recordings, or where
    the difference is the same in all of them. sc_stats cuts a recording into segments between words that both systems
    got right; here a segment is a whole recording, so there are fewer and longer ones. Both take the recordings of one
    speaker for independent.
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
    """Smallest true difference of the rates that a one-sided test at `alpha` detects with probability `power`.

    new, old, units, blocks: [recordings], as in `bootstrap.paired`, with at least two blocks. alpha: in (0, 0.5].
    power: in (0, 1).

    Assumes that the paired spread over blocks stays as observed, and that the additional errors add the spread of a
    count: a variance as large as their number. A loss that also makes speakers differ more is detected less often.
    """
    new_B, old_B, units_B = block_sums(blocks, new, old, units)
    freedom = len(units_B) - 1
    worse_B = new_B - old_B
    rate = worse_B.sum() / units_B.sum()
    # of a ratio of sums over blocks of unequal size, linearised
    variance = np.square(worse_B - rate * units_B).sum() * (1 + 1 / freedom) / units_B.sum() ** 2
    square = (stats.t.isf(alpha, freedom) + stats.norm.ppf(power)) ** 2
    added = square / units_B.sum()
    return float(added + np.sqrt(added**2 + 4 * square * variance)) / 2  # d = sqrt(square * (variance + d / units))
