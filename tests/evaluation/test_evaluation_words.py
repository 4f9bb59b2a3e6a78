"""Which recognised words are right, in the alignment that the error rate counts."""

from __future__ import annotations

import pytest

from pipeline.evaluation.corrupt import CorruptConfig
from pipeline.evaluation.normalise import normaliser
from pipeline.evaluation.rows import Outcome
from pipeline.evaluation.score import scored
from pipeline.evaluation.words import JudgedWord, judged, right_words, word_confidence
from pipeline.schemas import EVALUATED


def rights(language: str, recognised: str, reference: str) -> list[bool | None]:
    words = list(recognised) if language == "zh" else recognised.split()
    normal = normaliser("auto", language)
    return right_words(words, normal(reference), normal(recognised), normal, chars=language == "zh")


def test_a_word_is_right_where_the_alignment_has_it_equal() -> None:
    assert rights("de", "Die alte Katze, saß nun dort.", "die Katze saß hier dort") == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]


def test_characters_of_mandarin_are_judged_one_by_one() -> None:
    assert rights("zh", "我要喝茶。", "我要吃茶") == [True, True, False, True, None]  # a full stop is no word


def test_words_that_are_one_only_together_are_not_judged() -> None:
    assert rights("en", "at twenty one, don't stay", "at 21 do not stay") == [True, None, None, True, True]


def test_a_word_of_two_normal_words_is_right_where_both_are() -> None:
    assert rights("en", "I don't know", "I do know") == [True, False, True]


def outcome(reference: str | None) -> Outcome:
    words = [("old", 0.75), ("rat", 0.25)]
    return Outcome("r", "en", "transcribed", reference=reference, hypothesis="old rat", words=words)


def as_row(one: Outcome, damage: CorruptConfig) -> dict[str, object]:
    blank = dict.fromkeys(EVALUATED.names)
    return blank | scored(one, {}, "auto", damage)


def test_words_come_with_their_confidence() -> None:
    one = outcome("old cat")
    assert judged(one, as_row(one, CorruptConfig())) == [JudgedWord("en", 0.75, True), JudgedWord("en", 0.25, False)]


def test_without_a_reference_or_with_damage_no_word_is_judged() -> None:
    for one, damage in ((outcome(None), CorruptConfig()), (outcome("old cat"), CorruptConfig(delete_words=1.0))):
        assert judged(one, as_row(one, damage)) == []


def test_the_quality_is_that_of_all_words_and_of_each_language() -> None:
    words = [JudgedWord("en", 0.75, True), JudgedWord("en", 0.25, False), JudgedWord("de", 1.0, True)]
    everything, english, german = word_confidence(words)
    assert (everything.language, everything.words) == ("all", 3)
    assert everything.accuracy == pytest.approx(2 / 3)
    assert everything.ece == pytest.approx((0.25 + 0.25 + 0) / 3)
    assert (english.language, english.confidence, english.auroc) == ("en", 0.5, 1.0)
    assert (german.language, german.ece, german.auroc) == ("de", 0.0, None)
    assert word_confidence([]) == []
