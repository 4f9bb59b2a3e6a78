"""Intervals of error rates and of their differences: a bootstrap over blocks of recordings.

The recordings of one speaker share voice and microphone, so their errors are no independent draws: whole blocks
(speakers; recordings where they are unknown) are drawn with replacement, as in Liu & Peng, arXiv 1912.09508; drawing
single utterances (Bisani & Ney 2004) gives intervals that are too narrow.

Differs: percentiles of the drawn rates are too sure of themselves with the 10 to 40 speakers that test sets have (8 %
of false alarms instead of 5 % with 10 speakers, 25 % with 2). So every draw is moved away from the observed rate by
sqrt(n / (n - 1)), and by a random factor that makes Student's t of a normal distribution. That holds the false alarms
at 5 % from 2 speakers on (tests/evaluation/test_evaluation_bootstrap.py). What it cannot repair: where speakers differ
far more under one system than under the other, few blocks do not show the tail, and 20 speakers
alarm falsely in 4 to 8 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CHUNK = 2**22  # draws of blocks in memory at once: 32 MB


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
    sums_R2 = []
    for start in range(0, resamples, step := max(1, CHUNK // blocks)):
        rows = min(resamples - start, step)
        cells = random.integers(blocks, size=(rows, blocks)) + blocks * np.arange(rows)[:, None]
        weights_RB = np.bincount(cells.ravel(), minlength=rows * blocks).reshape(rows, blocks)  # multinomial
        sums_R2.append(weights_RB.astype(float) @ np.stack([values_B, units_B], axis=1))
    values_R, units_R = np.concatenate(sums_R2).T
    ratio = values_B.sum() / units_B.sum()
    # sqrt(n / (n - 1)), then t = normal / sqrt(chi-square / (n - 1)): together sqrt(n / chi-square)
    widened_R = np.sqrt(blocks / random.chisquare(blocks - 1, resamples))
    return np.asarray(ratio + (values_R / units_R - ratio) * widened_R)


def _bounds(draws: np.ndarray, tail: float) -> tuple[float, float]:
    """With the probability `tail` the truth is below, and as often above. Quantiles k / (n + 1), as p has them."""
    low, high = np.quantile(draws, [tail, 1 - tail], method="weibull")
    return float(low), float(high)
