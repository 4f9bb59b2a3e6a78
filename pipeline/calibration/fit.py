"""Fit calibrators: logistic regression on signals, then isotonic, with folds that no speaker shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from pipeline.calibration.samples import Samples
from pipeline.output.calibrator import ALL, Calibrator, Curve, Curves, Input, Judged, judged

FOLDS = 5  # at most; fewer where there are fewer speakers
PENALTIES = (0.01, 0.1, 1.0)  # of scikit-learn's LogisticRegression: C, the inverse of the penalty
# A language has curves of its own from so many speakers and so many wrong and right words on.
MIN_SPEAKERS, MIN_WORDS = 4, 50
DIGITS = 6  # of the numbers in the file


@dataclass(frozen=True, slots=True)
class Fit:
    """Rows that a curve is fitted on. target: in [0, 1], such as a share of right words. group: of equal speakers."""

    signals: dict[str, np.ndarray]
    target: np.ndarray
    weight: np.ndarray
    group: np.ndarray


def fit_calibrator(samples: Samples, fitted: dict[str, Any] | None = None) -> Calibrator:
    """A calibrator on all samples. fitted: what it says of itself. Raises ValueError where no curve is possible."""
    features = samples.features
    curves = {ALL: _curves(samples)}
    for language in sorted({name for name in features.language if name}):
        own = samples.some(features.language == language)
        if _is_enough(own):
            curves[language] = _curves(own)
    return Calibrator(model=str(features.model[0]), fitted=fitted or {}, curves=curves)


def held_out(samples: Samples) -> Judged:
    """The confidence of every word and segment by a calibrator that was fitted without its speaker.

    Everything is fitted anew in each fold, the choice of the penalty too. Raises ValueError with a single speaker.
    """
    features = samples.features
    word, segment = np.full(len(features.row_of), np.nan), np.full(len(features.model), np.nan)
    source = np.full(len(segment), None, object)
    for _, test in folds(samples.speaker):
        rows = np.zeros(len(segment), bool)
        rows[test] = True
        found = judged(samples.some(rows).features, fit_calibrator(samples.some(~rows)))
        word[rows[features.row_of]], segment[rows], source[rows] = found.word, found.segment, found.source
    return Judged(word, segment, source)


def folds(group: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indexes to fit on and to judge, up to FOLDS times; no group is on both sides. group: [rows]."""
    count = min(FOLDS, len(np.unique(group)))
    if count < 2:
        raise ValueError("a single speaker: nothing is left to judge the fit")
    yield from GroupKFold(count).split(group, groups=group)


def fit_curve(rows: Fit) -> Curve:
    """One curve. Signals that most rows lack, or that are the same in all, are left out."""
    inputs, matrix = _standardised(rows)
    group = rows.group if len(np.unique(rows.group)) > 1 else np.arange(len(rows.group))
    best: tuple[float, float, np.ndarray] | None = None
    for penalty in PENALTIES:
        scores = np.zeros(len(matrix))
        for train, test in folds(group):
            model = _regression(matrix[train], rows.target[train], rows.weight[train], penalty)
            scores[test] = model.decision_function(matrix[test])
        loss = float(np.average(np.logaddexp(0, scores) - rows.target * scores, weights=rows.weight))
        if best is None or loss < best[0]:
            best = (loss, penalty, scores)
    assert best is not None
    model = _regression(matrix, rows.target, rows.weight, best[1])
    weights = iter(model.coef_[0].tolist())
    weighted = [
        one.model_copy(
            update={"weight": _short(next(weights)), "missing": None if one.missing is None else _short(next(weights))}
        )
        for one in inputs
    ]
    knots, values = isotonic(best[2], rows.target, rows.weight)
    bias = _short(model.intercept_[0])
    return Curve(inputs=weighted, bias=bias, scores=knots, values=values, rows=len(rows.target))


def isotonic(score: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[list[float], list[float]]:
    """Knots of a centred isotonic regression: one in the middle of each block, and a straight line between two.

    So there are few ties, which would lose the order of the scores. One wrong row at the highest score and one right
    row at the lowest are added, so no value is 0 or 1, however few rows an end has. Source: Oron and Flournoy 2017,
    centred isotonic regression; differs: behind the outer blocks the values go half of the way to 0 and 1.
    """
    usual = float(np.mean(weight))
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    model.fit(
        np.concatenate([[score.min()], score, [score.max()]]),
        np.concatenate([[1.0], target, [0.0]]),
        np.concatenate([[usual], weight, [usual]]),
    )
    values, block = np.unique(model.predict(score), return_inverse=True)
    centres = np.bincount(block, weight * score) / np.bincount(block, weight)
    knots = {_short(score.min()): _short(values[0] / 2), _short(score.max()): _short((1 + values[-1]) / 2)}
    knots |= {_short(at): _short(value) for at, value in zip(centres, values, strict=True)}
    scores = sorted(knots)
    return scores, list(np.maximum.accumulate([knots[at] for at in scores]).tolist())


def word_rows(samples: Samples) -> Fit:
    """Words that the normaliser leaves something of."""
    known, features = samples.known, samples.features
    signals = {name: values[known] for name, values in features.word.items()}
    target = samples.right[known]
    return Fit(signals, target, np.ones(len(target)), samples.speaker[features.row_of][known])


def segment_rows(samples: Samples) -> Fit:
    """Segments with words; each weighs as many words as its part of the reference has."""
    features = samples.features
    spoken = samples.spoken
    signals = {name: values[spoken] for name, values in features.segment.items()}
    return Fit(signals, samples.accuracy[spoken], np.maximum(1, samples.units[spoken]), samples.speaker[spoken])


def _curves(samples: Samples) -> Curves:
    return Curves(word=fit_curve(word_rows(samples)), segment=fit_curve(segment_rows(samples)))


def _is_enough(samples: Samples) -> bool:
    """Whether a language has curves of its own."""
    right = int(np.nansum(samples.right))
    wrong = int(np.sum(samples.right == 0))
    return min(right, wrong) >= MIN_WORDS and len(np.unique(samples.speaker)) >= MIN_SPEAKERS


def _standardised(rows: Fit) -> tuple[list[Input], np.ndarray]:
    """The inputs without weights, and float64 [rows, columns]: each input, and 0 or 1 where it may be missing."""
    inputs, columns = [], []
    for name, values in rows.signals.items():
        known = ~np.isnan(values)
        if known.mean() <= 0.5:
            continue
        mean, scale = float(values[known].mean()), float(values[known].std())
        if scale < 1e-9:
            continue
        is_sometimes_missing = not known.all()
        inputs.append(
            Input(
                name=name,
                low=_short(values[known].min()),
                high=_short(values[known].max()),
                mean=_short(mean),
                scale=max(_short(scale), 10.0**-DIGITS),
                weight=0.0,
                missing=0.0 if is_sometimes_missing else None,
            )
        )
        columns.append(np.where(known, (values - mean) / scale, 0.0))
        if is_sometimes_missing:
            columns.append((~known).astype(float))
    return inputs, np.stack(columns, axis=1) if columns else np.zeros((len(rows.target), 0))


def _regression(matrix: np.ndarray, target: np.ndarray, weight: np.ndarray, penalty: float) -> LogisticRegression:
    """Logistic regression on shares: each row counts as right and as wrong, by its share of both."""
    both = np.concatenate([weight * target, weight * (1 - target)])
    label = np.repeat([1, 0], len(target))
    used = both > 0
    if len(np.unique(label[used])) < 2:
        raise ValueError("all words are right, or all are wrong")
    model = LogisticRegression(C=penalty, max_iter=1000)
    return model.fit(np.concatenate([matrix, matrix])[used], label[used], both[used] / np.mean(both[used]))


def _short(value: float) -> float:
    return round(float(value), DIGITS)
