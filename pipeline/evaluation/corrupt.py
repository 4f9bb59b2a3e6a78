"""Makes hypotheses worse on purpose: shows that the gate closes, and how great a loss it takes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import chain

from pydantic import Field

from pipeline.config import Section

HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # written without spaces
_WORD = re.compile(rf"(\s*)([{HAN}]|[^\s{HAN}]+)")
# Where a text has no other word of its own. No fillers and no numbers: normalisers drop or join them.
SPARE, SPARE_HAN = ("river", "window"), ("河", "窗")


class CorruptConfig(Section):
    """How much of every hypothesis is damaged before it is scored; all 0: nothing."""

    delete_words: float = Field(0.0, ge=0, le=1, description="fraction of words; characters of Mandarin")
    insert_words: float = Field(0.0, ge=0, le=1, description="one more word after a word")
    substitute_words: float = Field(0.0, ge=0, le=1, description="another word for a word that was not deleted")
    seed: int = Field(0, ge=0, lt=2**31, description="same seed, same recording, same damage")

    def told(self) -> str:
        """What is damaged, in words; empty where nothing is."""
        given = {name: value for name, value in self.model_dump(exclude={"seed"}).items() if value}
        return ", ".join(f"{name} {value:g}" for name, value in given.items())


def corrupt(
    text: str, key: str, *, delete_words: float, insert_words: float, substitute_words: float, seed: int
) -> str:
    """The text with words deleted, replaced and inserted, each with its probability per word.

    key: what the text belongs to (its recording); it and `seed` alone decide, so the order of texts does not matter. A
    greater fraction damages the same words and more. Words come from the text itself. A Chinese character is a word.
    """
    if not (delete_words or insert_words or substitute_words):
        return text
    chance = random.Random(f"{seed}\n{key}")
    found = _WORD.findall(text)
    words = [word for _, word in found]
    damaged = []
    for space, word in found:
        # always five numbers: what happens to a word does not depend on what happened before
        deleted, substituted, inserted, substitute, insertion = (chance.random() for _ in range(5))
        if deleted >= delete_words:
            kept = _another(words, word, substitute) if substituted < substitute_words else word
            damaged.append(space + kept)
        if inserted < insert_words:
            gap = "" if _is_han(word) else " "
            damaged.append(gap + words[int(insertion * len(words))])
    return "".join(damaged).strip()


def _another(words: Sequence[str], word: str, at: float) -> str:
    """A word of the text from the place `at` in [0, 1) on, different in more than capitals and marks; or a spare."""
    start = int(at * len(words))
    own = (words[(start + step) % len(words)] for step in range(len(words)))
    candidates = chain(own, SPARE_HAN if _is_han(word) else SPARE)
    return next(other for other in candidates if _bare(other) != _bare(word))


def _bare(word: str) -> str:
    return re.sub(r"\W", "", word).casefold()


def _is_han(word: str) -> bool:
    return re.match(rf"[{HAN}]", word) is not None
