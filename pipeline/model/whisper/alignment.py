"""When each token was spoken, from the attention of some heads of the decoder to the audio.

Source: openai/whisper, timing.py.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from pipeline.model.positions import POSITIONS_PER_SECOND

MEDIAN = 7  # positions
POSITION_MS = 1000 // POSITIONS_PER_SECOND  # 20 ms


def token_times(scores_HTS: np.ndarray, positions: int) -> list[tuple[int, int]]:
    """The beginning and the end of each token in milliseconds.

    scores_HTS: float32 [heads, tokens + 1, S] before the softmax, not modified; row n attends where token n is spoken,
    the last row where the end is. positions: those of the encoder that have sound.
    """
    scores = scores_HTS[:, :, :positions]
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    deviation = weights.std(axis=1, keepdims=True)
    weights = (weights - weights.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-10)
    firsts = path_starts(-_smoothed(weights).mean(axis=0))
    return [(first * POSITION_MS, end * POSITION_MS) for first, end in pairwise(firsts)]


def path_starts(cost_TS: np.ndarray) -> list[int]:
    """Where the cheapest path through a matrix first meets each row, from the first to the last corner.

    The path goes one row down, one column to the right, or both (dynamic time warping).
    """
    rows, columns = cost_TS.shape
    totals = np.empty((rows, columns))
    totals[0] = np.cumsum(cost_TS[0], dtype=np.float64)
    for row in range(1, rows):
        above = totals[row - 1]
        entered = np.minimum(above, np.concatenate([above[:1], above[:-1]]))  # from above, or from the left above
        along = np.cumsum(cost_TS[row], dtype=np.float64)
        # The row is entered in some column k, and followed from there: entered[k] + along[here] - along[k - 1].
        totals[row] = along + np.minimum.accumulate(entered - along + cost_TS[row])
    starts = [0] * rows
    column = columns - 1
    for row in range(rows - 1, 0, -1):
        above = totals[row - 1]
        entered = np.minimum(above, np.concatenate([above[:1], above[:-1]]))
        along = np.cumsum(cost_TS[row], dtype=np.float64)
        starts[row] = column = int((entered - along + cost_TS[row])[: column + 1].argmin())
        if column and above[column - 1] <= above[column]:
            column -= 1
    return starts


def _smoothed(weights: np.ndarray) -> np.ndarray:
    """The median over MEDIAN positions of the last axis, mirrored at its ends."""
    half = MEDIAN // 2
    if weights.shape[-1] <= half:
        return weights
    padded = np.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(half, half)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN, axis=-1)
    median: np.ndarray = np.median(windows, axis=-1)
    return median
