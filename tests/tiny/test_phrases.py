"""The phrases: tables checked by hand, closed vocabularies, lengths, reproducibility, the evaluation split."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest

from infra.tiny.phrases import (
    MAX_CHARACTERS_ZH,
    MAX_WORDS,
    is_evaluation,
    phrase,
    vocabulary,
)
from pipeline.config import LANGUAGES

# Written by hand, apart from the tables under test.
NUMBERS = {
    "en": {0: "zero", 11: "eleven", 20: "twenty", 23: "twenty three", 40: "forty", 99: "ninety nine"},
    "de": {1: "eins", 16: "sechzehn", 17: "siebzehn", 21: "einundzwanzig", 30: "dreißig", 77: "siebenundsiebzig"},
    "fr": {
        17: "dix sept",
        21: "vingt et un",
        61: "soixante et un",
        70: "soixante dix",
        71: "soixante et onze",
        80: "quatre vingts",
        81: "quatre vingt un",
        99: "quatre vingt dix neuf",
    },
    "es": {16: "dieciséis", 21: "veintiuno", 22: "veintidós", 30: "treinta", 33: "treinta y tres", 70: "setenta"},
    "hi": {
        0: "शून्य",
        9: "नौ",
        19: "उन्नीस",
        23: "तेईस",
        29: "उनतीस",
        39: "उनतालीस",
        49: "उनचास",
        50: "पचास",
        55: "पचपन",
        69: "उनहत्तर",
        79: "उनासी",
        89: "नवासी",
        99: "निन्यानवे",
    },
    "zh": {0: "零", 10: "十", 12: "十二", 20: "二十", 23: "二十三", 90: "九十", 99: "九十九"},
}
SCRIPTS = {"hi": r"[\u0900-\u097f ]+", "zh": r"[\u4e00-\u9fff]+"}
CALENDAR = {"weekdays": 7, "months": 12, "colours": 10, "answers": 2}


@pytest.mark.parametrize(("language", "value", "text"), [(k, n, t) for k, v in NUMBERS.items() for n, t in v.items()])
def test_numbers_are_spelled_as_a_speaker_writes_them(language: str, value: int, text: str) -> None:
    assert vocabulary(language).lists["numbers"][value] == text


@pytest.mark.parametrize("language", LANGUAGES)
def test_vocabulary_is_complete(language: str) -> None:
    table = vocabulary(language)
    assert len(set(table.lists["numbers"])) == len(table.lists["numbers"]) == 100
    for name, count in CALENDAR.items():
        assert len(set(table.lists[name])) == count
    assert len(table.lists["greetings"]) >= 5
    everyday = set(table.others) - {item for name in (*CALENDAR, "greetings") for item in table.lists[name]}
    assert len(everyday) >= 45


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_lower_case_letters_in_nfc(language: str) -> None:
    table = vocabulary(language)
    for item in (item for items in table.lists.values() for item in items):
        assert item == unicodedata.normalize("NFC", item).lower().strip()
        assert re.fullmatch(SCRIPTS.get(language, r"[a-zà-öø-ÿß ]+"), item)
        assert "  " not in item


@pytest.mark.parametrize("language", LANGUAGES)
def test_templates_use_the_vocabulary_alone(language: str) -> None:
    table = vocabulary(language)
    for template in table.templates:
        assert set(re.findall(r"\{(.*?)\}", template)) <= set(table.lists)
        literal = re.sub(r"\{.*?\}", " ", template)
        assert set(literal.replace(" ", "") if language == "zh" else literal.split()) <= table.words()


@pytest.mark.parametrize("language", LANGUAGES)
def test_phrases_are_short_and_of_the_vocabulary(language: str) -> None:
    rng, known = random.Random(3), vocabulary(language).words()
    phrases = [phrase(language, rng) for _ in range(2000)]
    units = [list(text) if language == "zh" else text.split(" ") for text in phrases]
    assert all(set(words) <= known for words in units)
    lengths = [len(words) for words in units]
    assert min(lengths) >= 1
    assert max(lengths) <= (MAX_CHARACTERS_ZH if language == "zh" else MAX_WORDS)
    assert 3 <= sum(lengths) / len(lengths) <= (7 if language == "zh" else 5)
    assert len(set(phrases)) > 1000


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_occurs_in_phrases(language: str) -> None:
    rng = random.Random(4)
    text = " ".join(phrase(language, rng) for _ in range(12_000))
    assert vocabulary(language).words() <= set(text if language == "zh" else text.split())


def test_two_numbers_never_meet_unless_both_are_digits() -> None:
    """The words "quatre vingts" + "trois" sound like "quatre vingt trois": the text would be a guess."""
    rng = random.Random(5)
    assert not any(re.search(r"vingts (?!et )(un|deux|trois|onze|dix)\b", phrase("fr", rng)) for _ in range(5000))
    digits = "|".join(vocabulary("de").lists["numbers"][:10])
    assert any(re.search(rf"\b({digits}) ({digits})\b", phrase("de", rng)) for _ in range(5000))


def test_same_generator_state_gives_the_same_phrases() -> None:
    for language in LANGUAGES:
        first, second = random.Random(7), random.Random(7)
        assert [phrase(language, first) for _ in range(50)] == [phrase(language, second) for _ in range(50)]


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="'xx' is not one of en"):
        phrase("xx", random.Random(0))


def test_one_text_in_twenty_is_held_out_for_evaluation() -> None:
    rng = random.Random(8)
    texts = {phrase(language, rng) for language in LANGUAGES for _ in range(1500)}
    assert 0.04 < sum(map(is_evaluation, texts)) / len(texts) < 0.06
    assert not is_evaluation("on monday the third of may")  # sha256 70521164...: 0x70521164 % 20 == 16
