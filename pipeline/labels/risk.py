"""The error rate of labels from a calibration set, with bounds that count speakers, not words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from pipeline.evaluation.bootstrap import block_sums


@dataclass(frozen=True, slots=True)
class Risk:
    """An error rate. low and high: two-sided interval. upper: one-sided bound. All for the same level."""

    rate: float
    low: float
    high: float
    upper: float


def observed_risk(errors: np.ndarray, units: np.ndarray, blocks: np.ndarray, *, level: float) -> Risk | None:
    """The error rate of rows, and how far from it that of the speech that they stand for may be.

    errors, units: [rows], units of the reference. blocks: [rows], int64: rows of equal numbers, such as those of a
    speaker, are not independent. None where fewer than two blocks have units.

    The bounds are those of a ratio with Student's t over blocks (Cochran, Sampling Techniques, 6.3). Where few errors
    are seen, blocks do not show the spread; so no bound is nearer than the exact binomial one (Clopper and Pearson).
    """
    errors_B, units_B = block_sums(blocks, errors, units)
    count = int((units_B > 0).sum())
    if count < 2:
        return None
    wrong, total = float(errors_B.sum()), float(units_B.sum())
    rate = wrong / total
    spread = float(np.sqrt(count / (count - 1) * np.sum((errors_B - rate * units_B) ** 2))) / total
    return bounded(rate, spread, count - 1, wrong, total, level=level)


def bounded(
    rate: float,
    spread: float,
    freedom: int,
    wrong: float,
    total: float,
    *,
    level: float,
    apart: tuple[float, float] = (1.0, 1.0),
) -> Risk:
    """Bounds of a rate with the standard error `spread`, none nearer than those of `wrong` of `total` units.

    freedom: degrees of it. apart: factors of the one and of the other.
    """
    one, two = (float(special.stdtrit(freedom, share)) * spread * apart[0] for share in (level, (1 + level) / 2))
    low, high, upper = (
        apart[1] * abs(exact(wrong, total, share) - rate) for share in ((1 - level) / 2, (1 + level) / 2, level)
    )
    return Risk(rate, max(0.0, rate - max(two, low)), rate + max(two, high), rate + max(one, upper))


def exact(wrong: float, total: float, share: float) -> float:
    """The bound of Clopper and Pearson: the lower one for a share below 0.5, else the upper one.

    More errors than units are possible, and then it is the rate itself.
    """
    if wrong >= total or (share < 0.5 and wrong <= 0):
        return wrong / total
    if share < 0.5:
        return float(special.betaincinv(wrong, total - wrong + 1, share))
    return float(special.betaincinv(wrong + 1, total - wrong, share))
