"""Tests of rates: ratios of sums by group, with what was expected and what was not answered beside them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.evaluation.corrupt import CorruptConfig
from pipeline.evaluation.rates import rates
from pipeline.evaluation.result import Counts, Rates
from pipeline.evaluation.rows import Heard
from pipeline.evaluation.scored import scored


def row(
    number: int, reference: str | None, hypothesis: str, *, status: str = "transcribed", **changes: Any
) -> dict[str, Any]:
    values = {"language": "en", "speaker": "a", "seconds": 3.0} | changes
    name = values.pop("set", "dev")
    return scored(
        Heard(f"r{number}", status=status, reference=reference, hypothesis=hypothesis, **values),
        {"set": name},
        "auto",
        CorruptConfig(),
    )


def by_key(found: list[Rates]) -> dict[tuple[str, str], Rates]:
    held = {(one.group, one.key): one for one in found}
    assert len(held) == len(found)
    return held


ROWS = [
    row(0, "the quick brown fox", "the quick brown fox"),
    row(1, "jumps over it", "jumps it now", speaker="b", seconds=1.0),  # 1 deleted, 1 inserted
    row(2, "two words", "", status="dead_letter", speaker="b", seconds=None),  # 2 deleted
    row(3, "gone", "", status="missing", snr_db=4.0),  # 1 deleted
    row(4, "", "phantom word", seconds=31.0),  # nobody spoke
    row(5, None, "whatever was heard"),  # nobody knows
    row(6, "note book", "notebook", set="other", speaker=None, snr_db=40.0),  # 2 errors, none when merged
    row(7, "我三十五岁", "我35碎", language="zh", speaker="c"),  # one of five characters
]


def test_a_rate_is_a_ratio_of_sums_with_its_coverage() -> None:
    held = by_key(rates(ROWS, resamples=200, seed=0))
    english = held["language", "en"]
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
    held = by_key(rates(ROWS, resamples=200, seed=0))
    mandarin, everything = held["language", "zh"], held["all", "all"]
    assert (mandarin.metric, mandarin.counts, mandarin.merged) == ("CER", mandarin.chars, mandarin.chars)
    assert mandarin.counts.errors == 1
    assert everything.metric == "WER"
    assert everything.counts == held["language", "en"].words + mandarin.chars


def test_groups_are_named_and_ordered_for_people() -> None:
    found = [(one.group, one.key) for one in rates(ROWS, resamples=100, seed=0)]
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
def test_who_did_not_answer_has_lost_every_word(reason: str) -> None:
    (found, *_) = rates([row(0, "one lost sentence", "", status=reason)], resamples=100, seed=0)
    assert found.words == Counts(deletions=3)
    assert found.counts.rate == 1.0
    assert found.coverage == 0.0


def test_hypotheses_are_spoiled_before_they_are_counted() -> None:
    spoiled = scored(
        Heard("r", "en", "transcribed", reference="a b c", hypothesis="a b c"),
        {"set": "dev"},
        "auto",
        CorruptConfig(delete_words=1.0),
    )
    assert (spoiled["hypothesis"], spoiled["word_deletions"]) == ("", 3)


def test_recordings_of_the_only_speaker_are_drawn_one_by_one() -> None:
    alone = [
        row(number, "one lost sentence", "one sentence" if number % 2 else "one lost sentence") for number in range(8)
    ]
    (found, *_) = rates(alone, resamples=200, seed=0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1 / 6 < found.high
