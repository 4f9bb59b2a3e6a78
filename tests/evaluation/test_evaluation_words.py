"""Which recognised words are right, checked by hand, where a normaliser joins, splits and drops words."""

from __future__ import annotations

import pytest

from pipeline.evaluation.corrupt import CorruptConfig
from pipeline.evaluation.rows import Outcome
from pipeline.evaluation.score import scored
from pipeline.evaluation.words import JudgedWord, judged, label, touched_units, word_confidence
from pipeline.schemas import EVALUATED
from pipeline.text.normalise import normaliser

Right = list[bool | None]


@pytest.mark.parametrize(
    ("language", "text", "reference", "right"),
    [
        ("de", "Guten Tag, Welt!", "guten tag welt", [True, True, True]),
        ("de", "guten tag welt", "guten abend welt", [True, False, True]),
        ("de", "guten sehr tag", "guten tag", [True, False, True]),
        ("de", "guten - tag", "guten tag", [True, None, True]),  # nothing is left of a dash
        ("en", "it's twenty one now", "it is 21 now", [True, True, True, True]),
        ("en", "it's twenty two now", "it is 21 now", [True, False, False, True]),
        ("en", "don't stop um please", "do not stop please", [True, True, None, True]),
        ("zh", "我要茶", "我要鱼", [True, True, False]),
        ("zh", "今天二十三", "今天23", [True] * 5),
        ("fr", "İstanbul est loin", "i̇stanbul est près", [True, True, False]),  # one letter becomes two
    ],
)
def test_a_word_is_right_if_what_it_became_is_right(language: str, text: str, reference: str, right: Right) -> None:
    normal, chars = normaliser("auto", language), language == "zh"
    words = list(text) if chars else text.split()
    assert label([words], normal(reference), normal, chars=chars).right == right


def test_errors_count_in_the_segment_where_they_are_and_deletions_behind_the_word_before() -> None:
    normal = normaliser("auto", "de")
    found = label([["eins", "zwo"], [], ["vier", "sechs"]], "eins zwei drei vier fünf sechs", normal, chars=False)
    assert found.right == [True, False, True, True]
    assert found.errors == [2, 0, 1]  # zwo for zwei, drei is missing; fünf is missing
    assert found.units == [3, 0, 3]


def test_a_segment_without_words_has_all_errors() -> None:
    found = label([[]], "eins zwei", normaliser("auto", "de"), chars=False)
    assert (found.right, found.errors, found.units) == ([], [2], [2])


def test_letters_find_their_units() -> None:
    assert touched_units(["twenty", "one", "uh", "days"], ["21", "days"]) == [{0}, {0}, {0}, {1}]
    assert touched_units(["isn't"], ["is", "not"]) == [{0, 1}]
    assert touched_units([], []) == []


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
