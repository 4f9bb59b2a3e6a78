"""Unknown words: none is in the vocabulary, they look like their language, and every text gets at least one."""

from __future__ import annotations

import random

import pytest

from infra.tiny.phrases import phrase, vocabulary
from infra.tiny.unknown import unknown_word, with_unknown_words
from pipeline.config import LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_made_up_word_is_unknown_and_spelled_in_the_letters_of_its_language(language: str) -> None:
    rng = random.Random(0)
    known = vocabulary(language).words()
    letters = {letter for word in known for letter in word}
    made = {unknown_word(language, rng.choice(sorted(known)), rng) for _ in range(200)}
    assert not made & known
    assert len(made) > 150
    if language != "zh":  # Mandarin has other characters
        assert {letter for word in made for letter in word} <= letters


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_keeps_its_length_and_loses_at_least_one_known_word(language: str) -> None:
    rng = random.Random(1)
    known = vocabulary(language).words()
    for _ in range(50):
        text = phrase(language, rng)
        spoken = with_unknown_words(language, text, rng)
        before, after = (list(one) if language == "zh" else one.split() for one in (text, spoken))
        assert len(before) == len(after)
        assert set(after) - known


def test_the_same_generator_makes_the_same_words() -> None:
    one, other = (with_unknown_words("en", "red green blue", random.Random(7)) for _ in range(2))
    assert one == other
