"""Every filter drops what it is for, with its reason, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.labels.filters import Filters, plain_words, repetitions
from pipeline.labels.phrases import PHRASES, is_phrase
from pipeline.labels.reasons import REASONS
from pipeline.labels.settings import FiltersConfig
from tests.support.labels import segment

FILTERS = Filters(FiltersConfig(min_second_agreement=0.5, more_phrases=["Please like and subscribe"]))
GERMAN = "ich habe gestern meinen Bruder im Garten gesehen"


def reason(row: dict[str, Any], filters: Filters = FILTERS) -> str | None:
    return filters.reason(row, plain_words(row))


@pytest.mark.parametrize(
    ("text", "changes", "wanted"),
    [
        ("the cat is on the table today", {}, None),
        ("", {}, "no_text"),
        ("...", {}, "no_text"),
        ("good day", {"problem": "truncated_audio"}, "damaged"),
        ("good day", {"end_ms": 50}, "duration"),
        ("good day", {"end_ms": 40_001}, "duration"),
        ("good day", {"overflow": True}, "overflow"),
        ("no no no, no", {}, "repetition"),
        ("no no, no", {}, None),
        ("good day", {"chars_per_second": 25.1}, "character_rate"),
        ("good day", {"chars_per_second": 0.9}, "character_rate"),
        ("好", {"chars_per_second": 0.9, "language": "zh"}, None),
        ("a b a c b a c a b b", {}, "unique_words"),
        (f"good {'a' * 31}", {}, "long_word"),
        ("C'est ça.", {"language": "fr"}, "phrase"),
        ("C'est ça.", {"language": "en"}, None),
        ("please like and subscribe!", {}, "phrase"),
        (GERMAN, {"language": "de"}, None),
        (GERMAN, {}, "language"),
        (GERMAN, {"language": None}, None),
        ("今天我要去市场买茶", {}, "language"),
        ("今天我要去市场买茶", {"language": "zh"}, None),
        ("guten Tag", {}, None),
        ("good day", {"signals": {"second_agreement": 0.4}}, "second_model"),
        ("good day", {"signals": {"second_agreement": None}}, None),
    ],
)
def test_a_segment_is_dropped_for_its_reason(text: str, changes: dict[str, Any], wanted: str | None) -> None:
    assert reason(segment(text, **changes)) == wanted
    assert wanted is None or wanted in REASONS


def test_a_filter_that_is_off_drops_nothing() -> None:
    off = FiltersConfig(
        **{"damaged": False, "overflow": False, "phrases": False, "characters_per_second": None},
        **dict.fromkeys(("max_repetitions", "min_unique_words", "max_word_characters", "min_language_probability")),
    )
    wrong = segment(
        "oh " * 40 + "a" * 31, language="de", problem="truncated_audio", overflow=True, chars_per_second=99.0
    )
    assert reason(wrong) == "damaged"
    assert reason(wrong, Filters(off)) is None
    assert reason(segment("Oh", language="de"), Filters(off)) is None


@pytest.mark.parametrize(
    ("text", "most"), [("", 0), ("a", 1), ("a a b", 2), ("a b a b a b", 3), ("a b a b c a b", 2), ("a b c d " * 5, 5)]
)
def test_repetitions_in_a_row_are_counted(text: str, most: int) -> None:
    assert repetitions(text.split()) == most


def test_the_list_has_no_phrase_twice_and_finds_each() -> None:
    for language, phrases in PHRASES.items():
        plain = ["".join(plain_words(segment(phrase))) for phrase in phrases]
        assert len(set(plain)) == len(phrases)
        assert all(is_phrase(text, language, ()) for text in plain)
