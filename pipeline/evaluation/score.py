"""Errors of one text against another, in words, in characters and in words with compounds merged.

Texts are normalised ones (pipeline.evaluation.normalise). Words stand between spaces. A character is a code point; the
single space between two words is one too, as in jiwer's CER, so that a missed word boundary is an error. Mandarin has
none after its normaliser. An empty reference makes every unit of the hypothesis an insertion; two empty texts have no
errors and no units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import jiwer
import kaldialign

from pipeline.evaluation.corrupt import CorruptConfig, corrupt
from pipeline.evaluation.normalise import normaliser
from pipeline.evaluation.result import CHARACTER_LANGUAGES, Counts
from pipeline.evaluation.rows import Heard


class Aligned(NamedTuple):
    """One step of an alignment: a word or a character of either side, "" on the side that has none."""

    operation: str  # equal, substitute, delete or insert
    reference: str
    hypothesis: str


class AllCounts(NamedTuple):
    """Every count of one utterance."""

    words: Counts
    chars: Counts
    merged: Counts


def scored(row: Heard, common: Mapping[str, Any], wanted: str, spoil: CorruptConfig) -> dict[str, Any]:
    """common: the columns that all rows of a set share. wanted: name of the normaliser, or "auto".

    A recording without a transcript counts as an empty hypothesis, all its words deleted. One whose normalised
    reference is empty has insertions only; one without a reference (null) has no counts but zeros. Text of languages
    written without spaces has the counts of its characters as merged counts, and as words what stands between spaces.
    """
    normal = normaliser(wanted, row.language)
    hypothesis = corrupt(row.hypothesis, row.recording_id, **spoil.model_dump())
    known, heard = normal(row.reference or ""), normal(hypothesis)
    words, chars, merged = (
        (Counts(), Counts(), Counts())
        if row.reference is None
        else (
            word_counts(known, heard),
            char_counts(known, heard),
            char_counts(known, heard) if row.language in CHARACTER_LANGUAGES else merged_counts(known, heard),
        )
    )
    kept = ("recording_id", "language", "speaker", "seconds", "snr_db", "status", "reason", "confidence", "steps")
    own = {name: getattr(row, name) for name in (*kept, "reference", "audio", "model", "fingerprint")}
    counted = {
        f"{prefix}_{name}": value
        for prefix, counts in (("word", words), ("char", chars), ("merged", merged))
        for name, value in asdict(counts).items()
    }
    return {
        **common,
        **own,
        **counted,
        "normaliser": normal.identity,
        "hypothesis": hypothesis,
        "reference_normal": known,
        "hypothesis_normal": heard,
    }


def word_counts(reference: str, hypothesis: str) -> Counts:
    """Words, by the fewest errors (Levenshtein)."""
    return _counts(_by_words(reference, hypothesis))


def char_counts(reference: str, hypothesis: str) -> Counts:
    """Characters, by the fewest errors; a run of spaces is one, and at the ends of a text it is none."""
    return _counts(_by_characters(reference, hypothesis))


def merged_counts(reference: str, hypothesis: str) -> Counts:
    """Words, where neighbours that make the other side's word when written together are no error: "note book" is
    "notebook". As on the Open ASR leaderboard. `units` are the words of the reference as it is written.
    """
    words = reference.split()
    found = kaldialign.edit_distance(words, hypothesis.split(), merge_compounds=True)
    substitutions, deletions, insertions = found["sub"], found["del"], found["ins"]
    return Counts(len(words) - substitutions - deletions, substitutions, deletions, insertions)


def count_all(references: Sequence[str], hypotheses: Sequence[str]) -> list[AllCounts]:
    """The three counts of each pair, in order: a second for 10,000 of 20 words. One by one, since jiwer is no faster
    over many. Raises ValueError where there are more of one side than of the other.
    """
    return [
        AllCounts(word_counts(*pair), char_counts(*pair), merged_counts(*pair))
        for pair in zip(references, hypotheses, strict=True)
    ]


def alignment(reference: str, hypothesis: str, *, chars: bool = False) -> list[Aligned]:
    """What word_counts (`chars`: char_counts) counts, unit by unit in order, to show as a coloured difference."""
    output = _by_characters(reference, hypothesis) if chars else _by_words(reference, hypothesis)
    wanted, heard = output.references[0], output.hypotheses[0]
    steps = []
    for chunk in output.alignments[0]:
        left = wanted[chunk.ref_start_idx : chunk.ref_end_idx]
        right = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for index in range(max(len(left), len(right))):  # the same length, or one side is empty
            steps.append(Aligned(chunk.type, left[index] if left else "", right[index] if right else ""))
    return steps


def _by_words(reference: str, hypothesis: str) -> jiwer.WordOutput:
    return jiwer.process_words(_spaced(reference), _spaced(hypothesis))


def _by_characters(reference: str, hypothesis: str) -> jiwer.CharacterOutput:
    return jiwer.process_characters(_spaced(reference), _spaced(hypothesis))


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> Counts:
    return Counts(output.hits, output.substitutions, output.deletions, output.insertions)
