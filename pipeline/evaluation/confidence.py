"""How good a confidence is: whether it is as often right as it says (ECE), and whether it ranks right before wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

BINS = 15


def ece(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float | None:
    """Expected calibration error, in [0, 1]: mean distance of confidence and accuracy over bins of equal width.

    confidence: [words], in [0, 1]. correct: [words], 1 (right) or 0. A bin weighs as many words as it has. None without
    a word. Source: Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    if not len(sure):
        return None
    index = np.minimum((sure * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(index, sure - right)).sum() / len(sure))


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float | None:
    """Area under the ROC curve, in [0, 1]: how often a right word has more confidence than a wrong one; ties are half.

    confidence: [words]. correct: [words], 1 (right) or 0. None unless there are right words and wrong ones.
    """
    sure, right = np.asarray(confidence, float), np.asarray(correct, bool)
    good, bad = right.sum(), (~right).sum()
    if not good or not bad:
        return None
    above = stats.rankdata(sure)[right].sum() - good * (good + 1) / 2  # Mann and Whitney's U
    return float(above / (good * bad))
