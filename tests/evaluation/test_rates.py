"""rates: ratios of sums by group, checked by hand; bins of confidence and the calibration error too."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pipeline.evaluation.corrupt import CorruptConfig
from pipeline.evaluation.rates import calibration_error, language_rates, reliability
from pipeline.evaluation.result import Counts, Rates
from pipeline.evaluation.rows import Outcome
from pipeline.evaluation.score import scored
from tests.support.evaluated import evaluated_table, made_up_rows, row


def scored_row(
    number: int, reference: str | None, hypothesis: str, *, status: str = "transcribed", **changes: Any
) -> dict[str, Any]:
    values = {"language": "en", "speaker": "a", "seconds": 3.0} | changes
    name = values.pop("set", "dev")
    return scored(
        Outcome(f"r{number}", status=status, reference=reference, hypothesis=hypothesis, **values),
        {"set": name},
        "auto",
        CorruptConfig(),
    )


def by_key(found: list[Rates]) -> dict[tuple[str, str], Rates]:
    groups = {(one.group, one.key): one for one in found}
    assert len(groups) == len(found)
    return groups


ROWS = [
    scored_row(0, "the quick brown fox", "the quick brown fox"),
    scored_row(1, "jumps over it", "jumps it now", speaker="b", seconds=1.0),  # 1 deleted, 1 inserted
    scored_row(2, "two words", "", status="dead_letter", speaker="b", seconds=None),  # 2 deleted
    scored_row(3, "gone", "", status="missing", snr_db=4.0),  # 1 deleted
    scored_row(4, "", "phantom word", seconds=31.0),  # nobody spoke
    scored_row(5, None, "whatever was recognised"),  # nobody knows
    scored_row(6, "note book", "notebook", set="other", speaker=None, snr_db=40.0),  # 2 errors, none when merged
    scored_row(7, "我三十五岁", "我35碎", language="zh", speaker="c"),  # one of five characters
]


def test_a_rate_is_a_ratio_of_sums_with_its_coverage() -> None:
    groups = by_key(language_rates(ROWS, resamples=200, seed=0))
    english = groups["language", "en"]
    assert english.words.errors == 1 + 1 + 2 + 1 + 2
    assert english.words.units == 4 + 3 + 2 + 1 + 2
    assert english.counts == english.words
    assert english.merged.errors == 5
    assert (english.recordings, english.transcribed, english.dead, english.missing) == (5, 3, 1, 1)
    assert english.coverage == 3 / 5
    assert (english.empty_references, english.phantom_words) == (1, 2)
    assert english.seconds == 3.0 + 1.0 + 3.0 + 3.0
    assert english.low is not None
    assert english.high is not None
    assert english.low <= 7 / 12 <= english.high


def test_mandarin_is_judged_by_characters_and_everything_adds_each_language_in_its_own_units() -> None:
    groups = by_key(language_rates(ROWS, resamples=200, seed=0))
    mandarin, everything = groups["language", "zh"], groups["all", "all"]
    assert (mandarin.metric, mandarin.counts, mandarin.merged) == ("CER", mandarin.chars, mandarin.chars)
    assert mandarin.counts.errors == 1
    assert everything.metric == "WER"
    assert everything.counts == groups["language", "en"].words + mandarin.chars


def test_groups_are_named_and_ordered_for_people() -> None:
    found = [(one.group, one.key) for one in language_rates(ROWS, resamples=100, seed=0)]
    assert found == [
        ("all", "all"),
        ("set", "dev en"),
        ("set", "other en"),
        ("set", "dev zh"),
        ("language", "en"),
        ("language", "zh"),
        ("speaker", "en a"),
        ("speaker", "en b"),
        ("speaker", "zh c"),
        ("duration", "en below 2 s"),
        ("duration", "en 2-5 s"),
        ("duration", "en 30 s and more"),
        ("duration", "zh 2-5 s"),
        ("snr", "en 0-10 dB"),
        ("snr", "en 30 dB and more"),
    ]


@pytest.mark.parametrize("reason", ["dead_letter", "missing"])
def test_a_recording_without_a_transcript_has_lost_every_word(reason: str) -> None:
    (found, *_) = language_rates([scored_row(0, "one lost sentence", "", status=reason)], resamples=100, seed=0)
    assert found.words == Counts(deletions=3)
    assert found.counts.rate == 1.0
    assert found.coverage == 0.0


def test_hypotheses_are_damaged_before_they_are_counted() -> None:
    spoiled = scored(
        Outcome("r", "en", "transcribed", reference="a b c", hypothesis="a b c"),
        {"set": "dev"},
        "auto",
        CorruptConfig(delete_words=1.0),
    )
    assert (spoiled["hypothesis"], spoiled["word_deletions"]) == ("", 3)


def test_recordings_of_the_only_speaker_are_drawn_one_by_one() -> None:
    alone = [
        scored_row(number, "one lost sentence", "one sentence" if number % 2 else "one lost sentence")
        for number in range(8)
    ]
    (found, *_) = language_rates(alone, resamples=200, seed=0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1 / 6 < found.high


def test_bins_weigh_recordings_by_recognised_words() -> None:
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
def test_what_shows_nothing_is_left_out(left_out: dict[str, object]) -> None:
    assert reliability(evaluated_table([left_out])) == []


def test_no_bins_have_no_error() -> None:
    assert calibration_error([]) is None


def test_an_exact_confidence_has_a_small_error() -> None:
    rng = random.Random(5)
    rows = []
    for _ in range(400):
        confidence = rng.random()
        words = ["right" if rng.random() < confidence else "wrong" for _ in range(40)]
        rows.append(row("en", " ".join(["right"] * 40), " ".join(words), confidence=confidence))
    error = calibration_error(reliability(evaluated_table(rows)))
    assert error is not None
    assert error < 0.02
    too_sure = calibration_error(reliability(evaluated_table(made_up_rows())))
    assert too_sure is not None
    assert too_sure > 0.1
