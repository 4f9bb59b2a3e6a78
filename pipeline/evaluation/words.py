"""Which recognised words are right, and how good their confidence is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from rapidfuzz.distance import Levenshtein

from pipeline.evaluation.confidence import auroc, ece
from pipeline.evaluation.result import WordConfidence, headline
from pipeline.evaluation.rows import Outcome
from pipeline.evaluation.score import alignment
from pipeline.output.stitch import join_words
from pipeline.text.normalise import normaliser

MANY = "all"


class JudgedWord(NamedTuple):
    """A recognised word whose rightness is known."""

    language: str
    confidence: float
    right: bool


@dataclass(frozen=True, slots=True)
class Labels:
    """Of one recording: which of its words are right (None: nothing is left of it), errors and units by segment."""

    right: list[bool | None]
    errors: list[int]
    units: list[int]


def judged(outcome: Outcome, row: Mapping[str, Any]) -> list[JudgedWord]:
    """The words of a recording as right or wrong. row: its row of schemas.EVALUATED.

    None without a reference, or where the hypothesis was damaged on purpose.
    """
    if not outcome.words or not row["reference_normal"] or row["hypothesis"] != outcome.hypothesis:
        return []
    normal = normaliser(row["normaliser"].split("/")[0], row["language"])
    texts = [text for text, _ in outcome.words]
    labels = label([texts], row["reference_normal"], normal, chars=headline(row["language"]) == "CER")
    return [
        JudgedWord(row["language"], confidence, right)
        for (_, confidence), right in zip(outcome.words, labels.right, strict=True)
        if right is not None
    ]


def label(segments: list[list[str]], reference: str, normal: Callable[[str], str], *, chars: bool) -> Labels:
    """Align the words of a recording with its reference.

    segments: the words of each, as they were recognised. reference: normalised. chars: the units are characters.

    A normaliser may join, split or drop words. So the letters of the recognised words are aligned with those of the
    normalised text: a word is right if all units are right that its letters became.
    """
    words = [word for of_segment in segments for word in of_segment]
    segment_of = [number for number, of_segment in enumerate(segments) for _ in of_segment]
    errors, units = [0] * len(segments), [0] * len(segments)
    hypothesis = normal(join_words([{"text": word} for word in words]))
    steps = alignment(reference, hypothesis, chars=chars)
    recognised = [step.hypothesis for step in steps if step.hypothesis.strip()]
    touched = touched_units(words, recognised)
    word_of = {unit: word for word, of_word in reversed(list(enumerate(touched))) for unit in of_word}
    is_right: list[bool] = []
    segment = 0
    for step in steps:
        if step.hypothesis.strip():
            segment = segment_of[word_of[len(is_right)]] if len(is_right) in word_of else segment
            is_right.append(step.operation == "equal")
        if step.reference.strip():
            units[segment] += 1
        if step.operation != "equal" and (step.hypothesis.strip() or step.reference.strip()):
            errors[segment] += 1
    right = [all(is_right[unit] for unit in of_word) if of_word else None for of_word in touched]
    return Labels(right, errors, units)


def touched_units(words: list[str], units: list[str]) -> list[set[int]]:
    """For each recognised word the indexes of the normalised units that its letters became, perhaps none."""
    letters, of_unit = "".join(units), [number for number, unit in enumerate(units) for _ in unit]
    raw, of_word = "".join(words).lower(), [number for number, word in enumerate(words) for _ in word.lower()]
    touched: list[set[int]] = [set() for _ in words]
    blocks = groupby(Levenshtein.opcodes(raw, letters), key=lambda block: block.tag == "equal")
    for is_equal, group in blocks:
        several = list(group)
        if is_equal:
            for block in several:
                for number in range(block.src_end - block.src_start):
                    touched[of_word[block.src_start + number]].add(of_unit[block.dest_start + number])
            continue
        there = of_unit[several[0].dest_start : several[-1].dest_end]
        first, end = several[0].src_start, several[-1].src_end
        for word in set(of_word[first:end] or of_word[max(0, first - 1) : first]):
            touched[word].update(there)
    return touched


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
