"""How good a confidence is: whether it is as often right as it says, and whether it ranks right before wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score

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
    right = np.asarray(correct, bool)
    return float(roc_auc_score(right, np.asarray(confidence, float))) if right.any() and not right.all() else None


def nce(confidence: ArrayLike, correct: ArrayLike) -> float | None:
    """Normalised cross entropy, at most 1: 0 is as good as the share of right words for all, below 0 is worse.

    confidence: [words], in [0, 1]; it counts as at least 1e-6 away from 0 and 1. correct: [words], 1 (right), 0, or a
    share of both. None unless there are right words and wrong ones. Source: Siu and Gish 1999, "Evaluation of word
    confidence for speech recognition systems".
    """
    sure, right = np.clip(np.asarray(confidence, float), 1e-6, 1 - 1e-6), np.asarray(correct, float)
    usual = right.mean() if len(right) else 0.0
    if not 0 < usual < 1:
        return None
    entropy = -usual * np.log(usual) - (1 - usual) * np.log(1 - usual)
    return float(1 + np.mean(right * np.log(sure) + (1 - right) * np.log(1 - sure)) / entropy)


def aupr_of_errors(confidence: ArrayLike, correct: ArrayLike) -> float | None:
    """Average precision, in [0, 1], of looking for the wrong words at the lowest confidences.

    By chance it is the share of wrong words. confidence, correct: as of `auroc`. None without a wrong word.
    """
    wrong = 1 - np.asarray(correct, int)
    return float(average_precision_score(wrong, -np.asarray(confidence, float))) if wrong.any() else None


def risk_coverage(confidence: ArrayLike, errors: ArrayLike, units: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk, float64, where only the surest rows are kept: more and more of them.

    confidence, errors, units: [rows]. Coverage is the share of all units, in (0, 1]. Risk is errors per unit among
    those that are kept. Rows of equal confidence are kept together.
    """
    sure = np.asarray(confidence, float)
    order = np.argsort(-sure, kind="stable")
    kept, wrong = np.cumsum(np.asarray(units, float)[order]), np.cumsum(np.asarray(errors, float)[order])
    last = np.append(np.diff(sure[order]) != 0, True)[: len(order)] & (kept > 0)
    return kept[last] / kept[-1:], wrong[last] / kept[last]


def aurc(confidence: ArrayLike, errors: ArrayLike, units: ArrayLike) -> float | None:
    """Area under the curve of `risk_coverage`: the mean risk over all coverages. None without a unit."""
    coverage, risk = risk_coverage(confidence, errors, units)
    return float(np.sum(risk * np.diff(coverage, prepend=0.0))) if len(coverage) else None
