"""The risk-coverage curve of a calibration set: which confidence is enough for a target error rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.calibration.calibrate import set_outputs
from pipeline.calibration.fit import held_out
from pipeline.calibration.samples import Samples, read_samples
from pipeline.config import ConfigError
from pipeline.evaluation.bootstrap import block_sums
from pipeline.evaluation.settings import UNKNOWN
from pipeline.labels.risk import Risk, bounded
from pipeline.labels.settings import DEFAULT, LabelsConfig
from pipeline.output.calibrator import RAW, Calibrator, judged

CUTS = 50  # thresholds that are tried, at most


@dataclass(frozen=True, slots=True)
class Curve:
    """The judged segments of a calibration set, float64 or int64 [segments]; units are those of the reference."""

    confidence: np.ndarray
    errors: np.ndarray
    units: np.ndarray
    blocks: np.ndarray  # equal numbers: one speaker, or one recording whose speaker is unknown
    language: np.ndarray  # object: text

    def some(self, rows: np.ndarray) -> Curve:
        """Only some segments: bool [segments]."""
        return Curve(*(getattr(self, name)[rows] for name in ("confidence", "errors", "units", "blocks", "language")))


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a language needs. confidence: at least so much; None: nothing is sure enough. target: error rate."""

    confidence: float | None
    target: float | None


def read_curve(config: LabelsConfig, calibrator: Calibrator, model: str) -> Curve:
    """The calibration set as `calibrator` judges it. Raises ConfigError."""
    try:
        samples = read_samples(set_outputs(config.calibration, config.storage))
    except ConfigError as err:
        raise ConfigError(f"calibration{str(err).removeprefix('sets')}") from None
    if others := sorted(set(samples.features.model.tolist()) - {model}):
        raise ConfigError(f"calibration: transcripts of {', '.join(others)}, but {config.transcripts} is of {model}")
    try:
        return curve_of(samples, calibrator)
    except ValueError as err:
        raise ConfigError(
            f"calibration: the calibrator of {config.transcripts} was fitted on it, and without one of its speakers "
            f"none can be fitted: {err}"
        ) from None


def curve_of(samples: Samples, calibrator: Calibrator) -> Curve:
    """The segments that the calibrator can judge.

    Where it was fitted on this set, each speaker is judged by one that was fitted without it. Raises ValueError where
    that is impossible, as with a single speaker.
    """
    is_own = set(calibrator.fitted.get("fingerprints", ())) & set(samples.fingerprints)
    found = held_out(samples) if is_own else judged(samples.features, calibrator)
    language = np.array([name or UNKNOWN for name in samples.features.language], object)
    confidence = found.segment.astype(np.float32).astype(float)  # as it is published, so that equal ones are equal
    curve = Curve(confidence, samples.errors, samples.units, samples.speaker, language)
    return curve.some(samples.spoken & ~np.isnan(found.segment) & (found.source != RAW))


def thresholds(config: LabelsConfig, curve: Curve | None) -> dict[str, Threshold]:
    """By language; DEFAULT stands for the others, where the policy has thresholds for them."""
    policy = config.policy
    if not policy.target_wer:
        return {name: Threshold(least, None) for name, least in (policy.min_confidence or {DEFAULT: 0.0}).items()}
    assert curve is not None
    targets = {name: policy.target_wer.get(name, policy.target_wer.get(DEFAULT)) for name in set(curve.language)}
    return {
        name: threshold_of(curve.some(curve.language == name), target, policy.level)
        for name, target in sorted(targets.items())
        if target is not None
    }


def threshold_of(curve: Curve, target: float, level: float) -> Threshold:
    """The lowest confidence above which the upper bound of the error rate is at most `target`. curve: one language."""
    for cut in cuts(curve.confidence):
        found = expected_risk(curve.some(curve.confidence >= cut), level=level)
        if found and found.upper <= target:
            return Threshold(float(cut), target)
    return Threshold(None, target)


def expected_risk(
    curve: Curve, *, level: float, rate: float | None = None, words: float = np.inf, ahead: float = np.inf
) -> Risk | None:
    """The error rate that calibrated confidences expect, and how far from it that of some speech may be.

    curve: what a threshold keeps of the calibration set. rate: expected of the kept labels; None: of the calibration
    set itself. words, ahead: how many words and speakers the labels have. None where the calibration set has fewer
    than two speakers.

    The spread is that between errors and expected errors of the calibration set's speakers. It is not measured around
    the mean of these differences, and the rate is not corrected by it: where a threshold was chosen for few errors, the
    calibration set was lucky there.
    """
    expected = (1 - curve.confidence) * curve.units
    errors_B, expected_B, units_B = block_sums(curve.blocks, curve.errors, expected, curve.units)
    count, total = int((units_B > 0).sum()), float(units_B.sum())
    if count < 2:
        return None
    rate = float(expected_B.sum()) / total if rate is None else rate
    spread = float(np.sqrt(np.sum((errors_B - expected_B) ** 2))) / total
    apart = (float(np.sqrt(1 + count / ahead)), float(np.sqrt(1 + total / words)))
    return bounded(rate, spread, count, rate * total, total, level=level, apart=apart)


def kept_by(curve: Curve, least: Mapping[str, Threshold], languages: Collection[str]) -> Curve:
    """The segments of these languages that are above the threshold of their language."""
    enough = np.zeros(len(curve.units), bool)
    for language in languages:
        threshold = least.get(language, least.get(DEFAULT))
        if threshold and threshold.confidence is not None:
            enough |= (curve.language == language) & (curve.confidence >= threshold.confidence)
    return curve.some(enough)


def cuts(confidence: np.ndarray) -> np.ndarray:
    """Thresholds to try, ascending: all values, or CUTS quantiles of them."""
    values = np.unique(confidence)
    return values if len(values) <= CUTS else np.quantile(values, np.linspace(0, 1, CUTS), method="nearest")
