"""How good raw confidences, calibrated ones and single signals are, of words and of segments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from pipeline.calibration.fit import segment_rows, word_rows
from pipeline.calibration.samples import Samples
from pipeline.evaluation.confidence import aupr_of_errors, aurc, auroc, ece, nce
from pipeline.output.calibrator import ALL, Judged

Level = Literal["word", "segment"]
Group = Literal["all", "language", "source"]


@dataclass(frozen=True, slots=True)
class Figures:
    """One predictor on one group. Words are right or wrong; a segment is right where it has no error.

    nce and ece of segments compare confidence and 1 - WER. They are None of single signals, which are no probabilities.
    spearman is None of words.
    """

    level: Level
    group: Group
    key: str
    predictor: str  # raw, calibrated, or the name of a signal
    rows: int
    right: float  # share
    nce: float | None
    ece: float | None
    auroc: float | None
    aupr: float | None  # of errors
    aurc: float | None
    spearman: float | None  # with WER; the better the nearer to -1


@dataclass(frozen=True, slots=True)
class Scored:
    """The rows of one level with what is known of each. predictors: by name; more is surer."""

    level: Level
    predictors: dict[str, np.ndarray]
    accuracy: np.ndarray  # in [0, 1]; of a word 0 or 1
    errors: np.ndarray
    units: np.ndarray
    language: np.ndarray
    source: np.ndarray

    def some(self, rows: np.ndarray) -> Scored:
        """Only some rows: bool [rows]."""
        predictors = {name: values[rows] for name, values in self.predictors.items()}
        kept = (self.accuracy, self.errors, self.units, self.language, self.source)
        return Scored(self.level, predictors, *(values[rows] for values in kept))


def scored(samples: Samples, judged: Judged) -> tuple[Scored, Scored]:
    """Words and segments with their predictors: raw, calibrated, then each signal, turned so that more is surer."""
    features = samples.features
    words, segments = word_rows(samples), segment_rows(samples)
    known, spoken = samples.known, samples.spoken
    language = np.array([name or "unknown" for name in features.language], object)
    row = features.row_of[known]
    of_words = {"raw": features.raw_word[known], "calibrated": judged.word[known]}
    of_segments = {"raw": features.raw_segment[spoken], "calibrated": judged.segment[spoken]}
    own = {name: values for name, values in words.signals.items() if not name.startswith("segment.")}
    return (
        Scored(
            "word",
            of_words | _turned(own, words.target),
            words.target,
            1 - words.target,
            np.ones(len(row)),
            language[row],
            samples.source[row],
        ),
        Scored(
            "segment",
            of_segments | _turned(segments.signals, segments.target),
            segments.target,
            samples.errors[spoken],
            samples.units[spoken],
            language[spoken],
            samples.source[spoken],
        ),
    )


def figures_of(rows: Scored) -> Iterator[Figures]:
    """The figures of everything, of each language and of each source; of single signals those of everything only."""
    yield from _of_group(rows, "all", ALL, list(rows.predictors))
    groups: list[tuple[Group, np.ndarray]] = [("language", rows.language), ("source", rows.source)]
    for group, column in groups:
        for key in sorted(set(column.tolist())):
            yield from _of_group(rows.some(column == key), group, key, ["raw", "calibrated"])


def _of_group(rows: Scored, group: Group, key: str, names: list[str]) -> Iterator[Figures]:
    right = rows.errors == 0
    for name in names:
        values = rows.predictors[name]
        is_probability = name in ("raw", "calibrated")
        wer = rows.errors / np.maximum(1, rows.units)
        varies = len(set(values.tolist())) > 1 and len(set(wer.tolist())) > 1
        yield Figures(
            level=rows.level,
            group=group,
            key=key,
            predictor=name,
            rows=len(values),
            right=float(right.mean()),
            nce=nce(values, rows.accuracy) if is_probability else None,
            ece=ece(values, rows.accuracy) if is_probability else None,
            auroc=auroc(values, right),
            aupr=aupr_of_errors(values, right),
            aurc=aurc(values, rows.errors, rows.units),
            spearman=float(stats.spearmanr(values, wer).statistic) if rows.level == "segment" and varies else None,
        )


def _turned(signals: dict[str, np.ndarray], accuracy: np.ndarray) -> dict[str, np.ndarray]:
    """Signals that most rows have and that differ. One that falls with the accuracy has the other sign.

    A null counts as the least sure value.
    """
    turned = {}
    for name, values in signals.items():
        known = ~np.isnan(values)
        if known.mean() > 0.5 and np.ptp(values[known]) > 0:
            sign = 1 if np.corrcoef(values[known], accuracy[known])[0, 1] >= 0 else -1
            turned[name] = np.where(known, sign * values, np.min(sign * values[known]))
    return turned
