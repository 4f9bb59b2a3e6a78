"""Intervals of error rates and of their differences: a bootstrap over blocks of recordings.

The recordings of one speaker share a voice and a microphone, so their errors are not independent. Whole blocks are
drawn with replacement: a block is a speaker, or a recording whose speaker is unknown. Source: Liu & Peng, arXiv
1912.09508. Drawing single utterances (Bisani & Ney 2004) gives intervals that are too narrow.

scipy.stats.bootstrap draws the blocks. Its intervals assume many of them; test sets have 10 to 40 speakers. So every
drawn rate is moved away from the observed rate, by sqrt(n / (n - 1)) and by a random factor that turns a normal
distribution into Student's t. How often a system that is no worse raises the alarm at 5 %, measured on the errors of
tests/evaluation/test_evaluation_bootstrap.py with 1,000 resamples:

| speakers | percentile of scipy | BCa of scipy | widened as here |
| --- | --- | --- | --- |
| 2 | 24.5 % | 24.5 % | 5.7 % |
| 10 | 7.8 % | 8.3 % | 4.8 % |
| 40 | 5.8 % | 6.3 % | 5.2 % |
| 100 | 4.9 % | 5.1 % | 5.0 % |

One weakness stays: where speakers differ far more under one system than under the other, a few blocks do not show the
tail. With 20 speakers 4 to 8 % of such comparisons are false alarms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CHUNK = 2**20  # blocks drawn at a time: 8 MB for each of the arrays that scipy makes


@dataclass(frozen=True, slots=True)
class Paired:
    """New minus old. p < 1 - level implies `low` > 0: both come from the same draws."""

    difference: float  # of corpus-level rates
    low: float  # the true difference is above it with the probability `level`
    high: float  # ... below it
    p: float  # one-sided, in (0, 1]: that the new one is no worse


def interval(
    errors: ArrayLike,
    units: ArrayLike,
    blocks: Sequence[str],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float] | tuple[None, None]:
    """Two-sided interval of a corpus-level error rate; (None, None) where there is one block only.

    errors, units: [recordings], integers, units of the reference > 0. blocks: [recordings], what is drawn together.
    The order of recordings does not matter. Without any error it is (0, 0): what was never seen cannot be drawn.
    Raises ValueError where nothing is given or a block has no units.
    """
    errors_B, units_B = block_sums(blocks, errors, units)
    if len(units_B) == 1:
        return None, None
    low, high = _bounds(_draws(errors_B, units_B, resamples, seed), (1 - level) / 2)
    return max(0.0, low), high


def paired(
    new: ArrayLike,
    old: ArrayLike,
    units: ArrayLike,
    blocks: Sequence[str],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> Paired:
    """Difference of the corpus-level error rates of two systems on the same recordings.

    new, old: [recordings], errors; units, blocks: as in `interval`. Each bound holds with the probability `level` by
    itself, so both together with 2 level - 1. Raises ValueError with fewer than two blocks or where one has no units.
    """
    new_B, old_B, units_B = block_sums(blocks, new, old, units)
    if len(units_B) == 1:
        raise ValueError("a single block: the spread of its difference is unknown")
    draws = _draws(new_B - old_B, units_B, resamples, seed)
    low, high = _bounds(draws, 1 - level)
    p = float((1 + np.count_nonzero(draws <= 0)) / (1 + resamples))
    return Paired(float((new_B - old_B).sum() / units_B.sum()), low, high, p)


def blocks_of(rows: Iterable[tuple[str, str, str | None]]) -> list[str]:
    """What is drawn together, of (set, recording, speaker): a speaker's recordings of a set, or one without a speaker.

    Where that would be one block, recordings: what is found then holds for this speaker.
    """
    held = list(rows)
    blocks = [f"{group}\0speaker {who}" if who else f"{group}\0recording {name}" for group, name, who in held]
    return blocks if len(set(blocks)) > 1 else [f"{group}\0recording {name}" for group, name, _ in held]


def block_sums(blocks: Sequence[str], *values: ArrayLike) -> tuple[np.ndarray, ...]:
    """Sums of each of `values` [recordings] over equal names in `blocks`: float64 [blocks], in the order of names."""
    names, index = np.unique(np.asarray(blocks, dtype=object), return_inverse=True)
    return tuple(np.bincount(index, np.asarray(value, float), len(names)) for value in values)


def language_seed(seed: int, language: str) -> int:
    """The seed of one language: the same whatever other languages there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {language}".encode()).digest()[:8])


def _draws(values_B: np.ndarray, units_B: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[resamples]: what the ratio of the sums might be. At least two blocks."""
    if not len(units_B) or units_B.min() <= 0:
        raise ValueError("no block, or one without units: it has no rate")
    random = np.random.default_rng(seed)
    blocks = len(units_B)
    ratios_R = stats.bootstrap(
        (values_B, units_B),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, CHUNK // blocks),
        method="percentile",
        rng=random,
    ).bootstrap_distribution
    observed = _ratio(values_B, units_B)
    # sqrt(n / (n - 1)), then t = normal / sqrt(chi-square / (n - 1)): together sqrt(n / chi-square)
    widened_R = np.sqrt(blocks / random.chisquare(blocks - 1, resamples))
    return np.asarray(observed + (ratios_R - observed) * widened_R)


def _ratio(values: np.ndarray, units: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(values.sum(axis) / units.sum(axis))


def _bounds(draws: np.ndarray, tail: float) -> tuple[float, float]:
    """With the probability `tail` the truth is below, and as often above. Quantiles k / (n + 1), as p has them."""
    low, high = np.quantile(draws, [tail, 1 - tail], method="weibull")
    return float(low), float(high)
