"""The fit: no speaker on both sides of a fold, an isotonic curve within (0, 1), and figures that hold for others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibration.calibrate import fit_and_measure
from pipeline.calibration.figures import Figures
from pipeline.calibration.fit import fit_calibrator, folds, isotonic
from pipeline.calibration.samples import Samples
from pipeline.config import ConfigError
from pipeline.output.calibrator import parse
from pipeline.output.features import COLUMNS, features_of
from pipeline.schemas import SIGNALS, TRANSCRIPT, WORD_SIGNALS, to_table


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60).filter(lambda group: len(set(group)) > 1))
def test_a_speaker_is_never_on_both_sides_of_a_fold_and_every_row_is_judged_once(group: list[int]) -> None:
    speakers = np.array(group)
    judged = []
    for train, test in folds(speakers):
        assert not set(speakers[train]) & set(speakers[test])
        judged += test.tolist()
    assert sorted(judged) == list(range(len(group)))


@given(st.lists(st.tuples(st.floats(-9, 9), st.booleans(), st.floats(0.5, 9)), min_size=1, max_size=40))
@settings(deadline=None)
def test_the_isotonic_curve_rises_and_is_never_certain(rows: list[tuple[float, bool, float]]) -> None:
    score, right, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    scores, values = isotonic(score, right, weight)
    assert np.all(np.diff(scores) > 0)
    assert np.all(np.diff(values) >= 0)
    assert values[0] > 0
    assert values[-1] < 1


def samples(
    seed: int = 0, *, speakers: int = 12, segments: int = 360, languages: tuple[str, ...] = ("de", "en")
) -> Samples:
    """Words whose probability of being right is a curve of their signals, and raw confidences that are far too high."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    right: list[float] = []
    errors = []
    for _ in range(segments):
        truth = rng.uniform(0.02, 0.98, 5)
        is_right = rng.random(5) < truth
        right += is_right.astype(float).tolist()
        errors.append(int((~is_right).sum()))
        sure = 1 - (1 - truth) / 20
        words = [
            {"text": "wort", "confidence": one, "start_ms": 0, "end_ms": 300}
            | {"signals": dict.fromkeys(WORD_SIGNALS.names) | {"token_probability_min": one}}
            for one in sure.tolist()
        ]
        raw = float(sure.mean())
        row = dict.fromkeys(TRANSCRIPT.names) | {"language": str(rng.choice(languages)), "text": "wort", "words": words}
        signals = dict.fromkeys(SIGNALS.names) | {"confidence_raw": raw}
        rows.append(row | {"confidence": raw, "signals": signals, "overflow": False, "model": "m@1"})
    table: pa.Table = to_table(rows, TRANSCRIPT).select(list(COLUMNS))
    return Samples(
        features=features_of(table),
        right=np.array(right),
        errors=np.array(errors),
        units=np.full(segments, 5),
        speaker=rng.integers(0, speakers, segments),
        source=np.array(["set"] * segments, object),
        fingerprints=("f",),
    )


def test_confidences_of_held_out_speakers_are_as_often_right_as_they_say() -> None:
    found = fit_and_measure(samples())
    assert found.about["confidence_source"].keys() <= {"calibrated:language", "calibrated:all"}
    assert found.about["languages"] == ["de", "en"]

    def one(level: str, predictor: str) -> Figures:
        chosen = [of for of in found.figures if (of.level, of.group, of.predictor) == (level, "all", predictor)]
        assert len(chosen) == 1
        return chosen[0]

    for level in ("word", "segment"):
        raw, made = one(level, "raw"), one(level, "calibrated")
        assert raw.ece is not None
        assert made.ece is not None
        assert raw.ece > 0.3
        assert made.ece < 0.05
        assert (made.nce or 0) > 0 > (raw.nce or 0)
    assert (one("word", "calibrated").auroc or 0) == pytest.approx(one("word", "raw").auroc, abs=0.02)
    assert (one("segment", "calibrated").spearman or 0) < -0.3
    assert {of.key for of in found.figures if of.group == "language"} == {"de", "en"}


def test_a_fitted_calibrator_is_the_same_after_its_file() -> None:
    made = fit_calibrator(samples(segments=60, speakers=4))
    assert parse(made.to_json(), "file") == made


def test_a_language_with_few_speakers_has_no_curves_of_its_own() -> None:
    assert list(fit_calibrator(samples(speakers=3)).curves) == ["all"]


def test_a_single_speaker_is_not_enough() -> None:
    with pytest.raises(ConfigError, match="a single speaker"):
        fit_and_measure(samples(speakers=1, segments=40))


def test_words_that_are_all_right_are_not_enough() -> None:
    one = samples(segments=40)
    one.right[:] = 1
    with pytest.raises(ConfigError, match="all words are right"):
        fit_and_measure(one)
