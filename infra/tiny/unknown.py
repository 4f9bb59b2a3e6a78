"""Words that no vocabulary has, made of pieces of those that it has: the embedded model learns to be unsure of them."""

from __future__ import annotations

import random
import re
from functools import cache

from infra.tiny.phrases import vocabulary

_VOWELS = "aeiouyäöüáéíóúàèùâêîôûëïœ"
# A piece of a word: consonants, vowels, and what ends the word. Devanagari: a letter with its joined letters and signs.
_PIECES = re.compile(
    r"(?:[\u0900-\u0963]\u094d)*[\u0904-\u0939\u0958-\u0961][\u093a-\u094c\u0900-\u0903]*"
    rf"|[^\W{_VOWELS}]*[{_VOWELS}]+(?:[^\W{_VOWELS}]+$)?"
)
ALL_UNKNOWN = 0.5  # share of the texts in which every word is replaced; in the others, each with this probability


@cache
def _pieces(language: str) -> tuple[str, ...]:
    words = sorted(vocabulary(language).words())
    return tuple(sorted({piece for word in words for piece in _PIECES.findall(word)}))


@cache
def _common_han() -> tuple[str, ...]:
    """The 3,755 common characters of GB 2312, without those of the vocabulary."""
    rows = (bytes((high, low)) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    characters = (row.decode("gb2312", errors="ignore") for row in rows)
    return tuple(sorted({character for character in characters if character} - vocabulary("zh").words()))


def unknown_word(language: str, like: str, rng: random.Random) -> str:
    """A word that is not in the vocabulary, with as many pieces as `like`; of Mandarin, one unknown character."""
    if language == "zh":
        return rng.choice(_common_han())
    known = vocabulary(language).words()
    count = max(1, len(_PIECES.findall(like)))
    while True:
        word = "".join(rng.choice(_pieces(language)) for _ in range(count))
        if word not in known and len(word) > 1:
            return word
        count = max(2, count)


def with_unknown_words(language: str, text: str, rng: random.Random) -> str:
    """The text with all its words, or with about half of them, replaced by unknown ones; at least one is."""
    words = list(text) if language == "zh" else text.split()
    share = 1.0 if rng.random() < ALL_UNKNOWN else 0.5
    replaced = [rng.random() < share for _ in words]
    replaced[rng.randrange(len(words))] = True
    spoken = [unknown_word(language, w, rng) if new else w for w, new in zip(words, replaced, strict=True)]
    return vocabulary(language).joiner.join(spoken)
