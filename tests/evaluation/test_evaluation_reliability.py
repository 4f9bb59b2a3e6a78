"""reliability: bins and the calibration error, checked by hand."""

from __future__ import annotations

import random

import pytest

from pipeline.evaluation.reliability import calibration_error, reliability
from tests.support.evaluated import evaluated_table, made_up_rows, row


def test_bins_weigh_recordings_by_heard_words() -> None:
    rows = [
        row("en", "a b c d", "a b c d", confidence=0.95),  # 4 of 4 right
        row("en", "a b c d", "a b x y", confidence=0.91),  # 2 of 4
        row("en", "a b", "a b c d", confidence=0.35),  # 2 of 4: insertions are wrong words
    ]
    low, high = reliability(evaluated_table(rows))
    assert (low.low, low.high, low.recordings, low.units, low.accuracy) == (0.3, 0.4, 1, 4, 0.5)
    assert (high.recordings, high.units, high.accuracy) == (2, 8, 0.75)
    assert low.confidence == pytest.approx(0.35)
    assert high.confidence == pytest.approx(0.93)
    # 4 words are 0.15 off, 8 words 0.18
    assert calibration_error([low, high]) == pytest.approx((4 * 0.15 + 8 * 0.18) / 12)


def test_a_missed_word_lowers_no_accuracy() -> None:
    (only,) = reliability(evaluated_table([row("en", "a b c d", "a b", confidence=0.5)]))
    assert (only.units, only.accuracy) == (2, 1.0)


def test_mandarin_counts_characters() -> None:
    (only,) = reliability(evaluated_table([row("zh", "我要茶和鱼", "我要茶和与", confidence=1.0)]))
    assert (only.low, only.units, only.accuracy) == (0.9, 5, 0.8)


@pytest.mark.parametrize(
    "left_out",
    [
        row("en", "a b", "", confidence=0.5),
        row("en", "", "a b", confidence=0.5),
        row("en", None, "a b", reference_normal=None, confidence=0.5),
        row("en", "a b", "a b", confidence=None),
        row("en", "a b", "", confidence=None, status="missing"),
    ],
)
def test_what_tells_nothing_is_left_out(left_out: dict[str, object]) -> None:
    assert reliability(evaluated_table([left_out])) == []


def test_no_bins_have_no_error() -> None:
    assert calibration_error([]) is None


def test_a_confidence_that_keeps_its_word_has_a_small_error() -> None:
    rng = random.Random(5)
    rows = []
    for _ in range(400):
        confidence = rng.random()
        heard = ["right" if rng.random() < confidence else "wrong" for _ in range(40)]
        rows.append(row("en", " ".join(["right"] * 40), " ".join(heard), confidence=confidence))
    error = calibration_error(reliability(evaluated_table(rows)))
    assert error is not None
    assert error < 0.02
    too_sure = calibration_error(reliability(evaluated_table(made_up_rows())))
    assert too_sure is not None
    assert too_sure > 0.1
