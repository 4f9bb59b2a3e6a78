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
    """Rate of the new system minus that of the old one. Where p < 1 - level, `low` > 0: both use the same draws."""

    difference: float  # of corpus-level rates
    low: float  # the true difference is above it with probability `level`
    high: float  # the true difference is below it with probability `level`
    p: float  # one-sided, in (0, 1], of the hypothesis that the new system is no worse
    p_better: float  # the same of the hypothesis that it is no better


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

    errors, units: [recordings], integers; units are those of the reference. blocks: [recordings], names of what is
    drawn together. The order of recordings does not matter. Without any error the interval is (0, 0), since a bootstrap
    draws only what was observed. Raises ValueError where there is no recording, or where a block has no units.
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

    new, old: [recordings], errors of each system. units, blocks: as in `interval`. Each bound alone is right with
    probability `level`, both together with 2 level - 1. Raises ValueError with fewer than two blocks, or where a block
    has no units.
    """
    new_B, old_B, units_B = block_sums(blocks, new, old, units)
    if len(units_B) == 1:
        raise ValueError("a single block: the spread of the difference is unknown")
    draws = _draws(new_B - old_B, units_B, resamples, seed)
    low, high = _bounds(draws, 1 - level)
    p, p_better = (float((1 + np.count_nonzero(against)) / (1 + resamples)) for against in (draws <= 0, draws >= 0))
    return Paired(float((new_B - old_B).sum() / units_B.sum()), low, high, p, p_better)


def blocks_of(rows: Iterable[tuple[str, str, str | None]]) -> list[str]:
    """Names of the blocks of (set, recording, speaker) rows: all recordings of one speaker in one set are a block.

    A recording whose speaker is unknown is a block of its own. Where all rows are from one speaker, every recording is
    a block; the result is then valid for this speaker only.
    """
    given = list(rows)
    recordings = [f"{group}\0recording {name}" for group, name, _ in given]
    blocks = [
        f"{group}\0speaker {who}" if who else alone for (group, _, who), alone in zip(given, recordings, strict=True)
    ]
    return blocks if len(set(blocks)) > 1 else recordings


def block_sums(blocks: Sequence[str] | np.ndarray, *values: ArrayLike) -> tuple[np.ndarray, ...]:
    """Sums of each of `values` [recordings] over equal names in `blocks`: float64 [blocks], sorted by name."""
    given = blocks if isinstance(blocks, np.ndarray) else np.asarray(blocks, dtype=object)
    names, index = np.unique(given, return_inverse=True)
    return tuple(np.bincount(index, np.asarray(value, float), len(names)) for value in values)


def language_seed(seed: int, language: str) -> int:
    """The seed of one language. It does not depend on which other languages are evaluated."""
    return int.from_bytes(hashlib.sha256(f"{seed} {language}".encode()).digest()[:8])


def _draws(values_B: np.ndarray, units_B: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[resamples]: possible values of sum(values) / sum(units). There are at least two blocks."""
    if not len(units_B) or units_B.min() <= 0:
        raise ValueError("no block, or a block without units: there is no rate")
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
    """The truth is below the first with probability `tail`, and above the second as well. Quantiles k / (n + 1)."""
    low, high = np.quantile(draws, [tail, 1 - tail], method="weibull")
    return float(low), float(high)
