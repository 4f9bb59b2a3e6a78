"""Immediate repetitions that the model made up: a word or some words again and again, of which CTC heard fewer.

A denoising model repeats itself where a short text stands on a long canvas (arXiv 2607.13013 removes repeated words and
n-grams, without a rule). People repeat themselves too: "bye bye", "धीरे धीरे", "妈妈". So a text alone cannot tell, and
CTC's own text decides. It comes from the audio, slot by slot, and cannot loop. But it is noisy: its words are
misspelled, joined and split. So it is asked for letters, not for equal words: a copy goes only where CTC has no letters
for it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence, Set
from itertools import chain

from rapidfuzz.distance import Levenshtein

from pipeline.text.spelling import letters

LONGEST = 8  # words of an n-gram
SHARE = 0.5  # of a copy's letters: it goes where CTC has fewer of them
HEARD = 0.5  # of the letters that would stay: a CTC text with fewer cannot say how often something was said


def kept_words(words: Sequence[str], hypothesis: str | None, joined: Set[int] = frozenset()) -> list[int]:
    """The indexes of the words that stay, ascending. `len(words)` less their number were removed.

    A copy of the 1 to 8 words beside it is removed where two things hold. CTC's text, spelled without spaces, is nearer
    to the text without the copy, by more than half of the copy's letters. And nowhere has it these words so often in a
    row. One copy always stays, and so does a text that its CTC text equals. Of equal copies the last one goes first.

    Capitals and punctuation do not count.

    Args:
        words: of the text, each Han character alone (as in a transcript's `words`).
        hypothesis: the greedy CTC text of the same audio; None: the model has no CTC, and nothing is removed. Where it
            has far fewer letters than the text without repetitions, nothing is removed either.
        joined: indexes of words that cannot be parted from the word before, because one token spells both.
    """
    spelled = [letters(word) for word in words]
    kept = list(range(len(words)))
    if hypothesis is None:
        return kept
    heard = [letters(word) for word in split_words(hypothesis)]
    for length in range(min(LONGEST, len(words) // 2), 0, -1):
        at = 0
        while at + 2 * length <= len(kept):
            copies = _made_up([spelled[index] for index in kept], at, length, heard)
            starts = range(at + (copies - 1) * length, at - 1, -length) if copies else ()
            place = next(
                (start for start in starts if joined.isdisjoint(kept[start : start + length + 1 : length])), None
            )
            if place is None:
                at += 1
            else:
                del kept[place : place + length]
    count = sum(len(spelled[index]) for index in kept)
    return kept if sum(map(len, heard)) >= HEARD * count else list(range(len(words)))


def split_words(text: str) -> list[str]:
    """Words between white space, each Han character alone."""
    parted = (f" {character} " if is_han(character) else character for character in text)
    return "".join(parted).split()


def is_han(character: str) -> bool:
    """Whether it is a Chinese character, which counts as a word."""
    return unicodedata.name(character, "").startswith("CJK UNIFIED")


def _made_up(words: list[str], at: int, length: int, heard: list[str]) -> int:
    """How often the `length` words from `at` on stand in a row; 0: only once, or CTC may have heard all of them."""
    ngram = words[at : at + length]
    one = "".join(ngram)
    copies = _in_a_row(ngram, words, at)
    if copies < 2 or not one:
        return 0
    if any(_in_a_row(ngram, heard, start, wrong=4) >= copies for start in range(len(heard))):
        return 0
    target, whole = "".join(heard), "".join(words)
    without = "".join(chain(words[:at], words[at + length :]))
    gain = Levenshtein.distance(whole, target) - Levenshtein.distance(without, target)
    return copies if gain > SHARE * len(one) else 0


def _in_a_row(ngram: list[str], words: list[str], at: int, *, wrong: int = 0) -> int:
    """How often an n-gram stands in `words` from `at` on. wrong: one letter of so many may be; 0: none."""
    count = 0
    while len(here := words[at : at + len(ngram)]) == len(ngram) and all(
        Levenshtein.distance(one, other) <= (len(one) // wrong if wrong else 0)
        for one, other in zip(ngram, here, strict=True)
    ):
        count, at = count + 1, at + len(ngram)
    return count
