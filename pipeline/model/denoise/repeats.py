"""Immediate repetitions that the model made up: a word or some words again and again, of which CTC heard fewer.

A denoising model repeats itself where a short text stands on a long canvas (arXiv 2607.13013 removes repeated words and
n-grams, without a rule). People repeat themselves too: "bye bye", "धीरे धीरे", "妈妈". So a text alone cannot tell, and
CTC's own text decides. It comes from the audio, slot by slot, and cannot loop. But it is noisy: its words are
misspelled, joined and split. So it is asked for letters, not for equal words: a copy goes only where CTC has no letters
for it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import chain

from rapidfuzz.distance import Levenshtein

LONGEST = 8  # words of an n-gram
SHARE = 0.5  # of a copy's letters: it goes where CTC has fewer of them
HEARD = 0.5  # of the letters that would stay: a CTC text with fewer cannot say how often something was said


def kept_words(words: Sequence[str], hypothesis: str | None) -> list[int]:
    """The indexes of the words that stay, ascending. `len(words)` less their number were removed.

    A copy of the 1 to 8 words in front of it is removed where two things hold. CTC's text, spelled without spaces, is
    nearer to the text without the copy, by more than half of the copy's letters. And nowhere has it these words so
    often in a row. The first copy always stays, and so does a text that its CTC text equals.

    Capitals and punctuation do not count.

    Args:
        words: of the text, each Han character alone (as in a transcript's `words`).
        hypothesis: the greedy CTC text of the same audio; None: the model has no CTC, and nothing is removed. Where it
            has far fewer letters than the text without repetitions, nothing is removed either.
    """
    spelled = [_letters(word) for word in words]
    kept = list(range(len(words)))
    if hypothesis is None:
        return kept
    heard = [_letters(word) for word in split_words(hypothesis)]
    target = "".join(heard)
    for length in range(min(LONGEST, len(words) // 2), 0, -1):
        at = 0
        while at + 2 * length <= len(kept):
            own = [spelled[index] for index in kept]
            if _is_made_up(own, at, length, heard, target):
                del kept[at + length : at + 2 * length]
            else:
                at += 1
    letters = sum(len(spelled[index]) for index in kept)
    return kept if len(target) >= HEARD * letters else list(range(len(words)))


def split_words(text: str) -> list[str]:
    """Words between white space, each Han character alone."""
    parted = (f" {character} " if is_han(character) else character for character in text)
    return "".join(parted).split()


def is_han(character: str) -> bool:
    """Whether it is a Chinese character, which counts as a word."""
    return unicodedata.name(character, "").startswith("CJK UNIFIED")


def _is_made_up(words: list[str], at: int, length: int, heard: list[str], target: str) -> bool:
    """Whether the words after `at + length` are a copy of those before it that CTC has not heard."""
    ngram = words[at : at + length]
    letters = "".join(ngram)
    if not letters or words[at + length : at + 2 * length] != ngram:
        return False
    if _most_in_a_row(ngram, heard) >= _in_a_row(ngram, words, at):
        return False
    without = chain(words[:at], words[at + length :])
    gain = Levenshtein.distance("".join(words), target) - Levenshtein.distance("".join(without), target)
    return gain > SHARE * len(letters)


def _most_in_a_row(ngram: list[str], words: list[str]) -> int:
    return max((_in_a_row(ngram, words, at) for at in range(len(words))), default=0)


def _in_a_row(ngram: list[str], words: list[str], at: int) -> int:
    """How often an n-gram stands in `words` from `at` on. A word of 4 letters or more may differ in every fourth."""
    count = 0
    while all(
        Levenshtein.distance(one, other) <= len(one) // 4 for one, other in zip(ngram, words[at:], strict=False)
    ) and at + len(ngram) <= len(words):
        count, at = count + 1, at + len(ngram)
    return count


def _letters(word: str) -> str:
    """Letters, digits and the signs that belong to them (Hindi's vowels), as small letters."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    return "".join(character for character in folded if unicodedata.category(character)[0] in "LMN")
