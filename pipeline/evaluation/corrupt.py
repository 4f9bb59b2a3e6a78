"""Damages hypotheses on purpose, to show that the gate closes and how large a loss it takes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import chain

from pydantic import Field

from pipeline.config import Section

HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # written without spaces
_WORD = re.compile(rf"(\s*)([{HAN}]|[^\s{HAN}]+)")
# Used where a text has no other word of its own. No fillers and no numbers, since normalisers drop or join them.
SPARE, SPARE_HAN = ("river", "window"), ("河", "窗")


class CorruptConfig(Section):
    """How much of every hypothesis is damaged before errors are counted; all 0: nothing."""

    delete_words: float = Field(
        0.0, ge=0, le=1, description="fraction of words (Mandarin: characters) that are deleted"
    )
    insert_words: float = Field(0.0, ge=0, le=1, description="fraction of words that get another word behind them")
    substitute_words: float = Field(0.0, ge=0, le=1, description="fraction of the words left that become another word")
    seed: int = Field(0, ge=0, lt=2**31, description="the same seed damages a recording in the same way")

    def description(self) -> str:
        """What is damaged, in words; empty where nothing is."""
        given = {name: value for name, value in self.model_dump(exclude={"seed"}).items() if value}
        return ", ".join(f"{name} {value:g}" for name, value in given.items())


def corrupt_text(
    text: str, key: str, *, delete_words: float, insert_words: float, substitute_words: float, seed: int
) -> str:
    """The text with words deleted, replaced and inserted, each with its probability per word.

    key: the recording of the text. The damage depends on key and seed only, not on other texts. A larger fraction
    damages the same words and more. New words are taken from the text itself. A Chinese character is a word.
    """
    if not (delete_words or insert_words or substitute_words):
        return text
    chance = random.Random(f"{seed}\n{key}")
    pairs = _WORD.findall(text)  # space before the word, word
    words = [word for _, word in pairs]
    damaged = []
    for space, word in pairs:
        # always five numbers, so that the fate of a word does not depend on the words before it
        deleted, substituted, inserted, substitute, insertion = (chance.random() for _ in range(5))
        if deleted >= delete_words:
            kept = _another(words, word, substitute) if substituted < substitute_words else word
            damaged.append(space + kept)
        if inserted < insert_words:
            gap = "" if _is_han(word) else " "
            damaged.append(gap + words[int(insertion * len(words))])
    return "".join(damaged).strip()


def _another(words: Sequence[str], word: str, at: float) -> str:
    """The first word from the place `at` in [0, 1) on that differs in more than capitals and marks, or a spare one."""
    start = int(at * len(words))
    own = (words[(start + step) % len(words)] for step in range(len(words)))
    candidates = chain(own, SPARE_HAN if _is_han(word) else SPARE)
    return next(other for other in candidates if _bare(other) != _bare(word))


def _bare(word: str) -> str:
    return re.sub(r"\W", "", word).casefold()


def _is_han(word: str) -> bool:
    return re.match(rf"[{HAN}]", word) is not None
