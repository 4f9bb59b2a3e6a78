"""Which recognised words are right, and how good their confidence is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from pipeline.evaluation.confidence import auroc, ece
from pipeline.evaluation.normalise import normaliser
from pipeline.evaluation.result import WordConfidence, headline
from pipeline.evaluation.rows import Outcome
from pipeline.evaluation.score import alignment

MANY = "all"


class JudgedWord(NamedTuple):
    """A recognised word whose rightness is known."""

    language: str
    confidence: float
    right: bool


def judged(outcome: Outcome, row: Mapping[str, Any]) -> list[JudgedWord]:
    """The words of a recording as right or wrong. row: its row of schemas.EVALUATED.

    None without a reference, or where the hypothesis was damaged on purpose.
    """
    if not row["reference_normal"] or row["hypothesis"] != outcome.hypothesis:
        return []
    normal = normaliser(row["normaliser"].split("/")[0], row["language"])
    rights = right_words(
        [text for text, _ in outcome.words],
        row["reference_normal"],
        row["hypothesis_normal"],
        normal,
        chars=headline(row["language"]) == "CER",
    )
    return [
        JudgedWord(row["language"], confidence, right)
        for (_, confidence), right in zip(outcome.words, rights, strict=True)
        if right is not None
    ]


def right_words(
    words: Sequence[str], reference: str, hypothesis: str, normal: Callable[[str], str], *, chars: bool
) -> list[bool | None]:
    """Whether each word is right, in the alignment that the error rate counts.

    words: as they were recognised. reference, hypothesis: normalised texts. chars: align characters; then a word is
    right where all of its characters are. None for a word of which nothing is left in the normalised hypothesis, and
    for words that only together have a normal form ("twenty one" is 21).
    """
    units: Callable[[str], list[str]] = list if chars else str.split
    own = [units(normal(word)) for word in words]
    flat = [unit for one in own for unit in one]
    steps = alignment(reference, hypothesis, chars=chars)
    recognised = [step for step in steps if step.operation != "delete"]
    matches = SequenceMatcher(None, flat, [step.hypothesis for step in recognised], autojunk=False)
    right = {
        block.a + offset: recognised[block.b + offset].operation == "equal"
        for block in matches.get_matching_blocks()
        for offset in range(block.size)
    }
    found: list[bool | None] = []
    start = 0
    for one in own:
        places = range(start, start + len(one))
        start += len(one)
        known = one and all(place in right for place in places)
        found.append(all(right[place] for place in places) if known else None)
    return found


def word_confidence(words: Iterable[JudgedWord]) -> list[WordConfidence]:
    """The quality of all words together, then by language in the order of the words; empty without a word."""
    by_language: dict[str, list[JudgedWord]] = {}
    for word in words:
        by_language.setdefault(word.language, []).append(word)
    if not by_language:
        return []
    everything = [word for group in by_language.values() for word in group]
    return [_quality(MANY, everything), *(_quality(language, group) for language, group in by_language.items())]


def _quality(language: str, words: Sequence[JudgedWord]) -> WordConfidence:
    sure, right = [word.confidence for word in words], [word.right for word in words]
    error = ece(sure, right)
    assert error is not None  # there is a word
    return WordConfidence(
        language, len(words), sum(right) / len(right), sum(sure) / len(sure), error, auroc(sure, right)
    )
