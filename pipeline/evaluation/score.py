"""Errors of one text against another, in words, in characters and in words with compounds merged.

Texts are normalised first (pipeline.text.normalise). Spaces separate words. A character is a code point. The
single space between two words is a character too, as in jiwer's CER, so that a missed word boundary is an error;
normalised Mandarin has no spaces. With an empty reference every unit of the hypothesis is an insertion. Two empty texts
have no errors and no units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import jiwer
import kaldialign

from pipeline.evaluation.corrupt import CorruptConfig, corrupt_text
from pipeline.evaluation.result import CHARACTER_LANGUAGES, Counts
from pipeline.evaluation.rows import Outcome
from pipeline.text.normalise import normaliser


class Aligned(NamedTuple):
    """One step of an alignment: a word or a character of each side, "" on a side that has none."""

    operation: str  # equal, substitute, delete or insert
    reference: str
    hypothesis: str


def scored(row: Outcome, common: Mapping[str, Any], wanted: str, damage: CorruptConfig) -> dict[str, Any]:
    """One recording as a row of schemas.EVALUATED: corrupted where that is wanted, normalised, counted.

    common: the columns that all rows of a set share. wanted: name of the normaliser, or "auto". damage: of every
    hypothesis.

    A recording without a transcript has an empty hypothesis: all its words are deletions. A recording with an empty
    normalised reference has insertions only. A recording without a reference (null) has only zeros. In languages
    written without spaces the merged counts are those of characters, and a "word" is the text between spaces.
    """
    normal = normaliser(wanted, row.language)
    hypothesis = corrupt_text(row.hypothesis, row.recording_id, **damage.model_dump())
    reference_normal, hypothesis_normal = normal(row.reference or ""), normal(hypothesis)
    words, chars, merged = (
        (Counts(), Counts(), Counts())
        if row.reference is None
        else (
            word_counts(reference_normal, hypothesis_normal),
            char_counts(reference_normal, hypothesis_normal),
            (char_counts if row.language in CHARACTER_LANGUAGES else merged_counts)(
                reference_normal, hypothesis_normal
            ),
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
        "reference_normal": reference_normal,
        "hypothesis_normal": hypothesis_normal,
    }


def word_counts(reference: str, hypothesis: str) -> Counts:
    """Counts of words in the alignment with the fewest errors (Levenshtein)."""
    return _counts(_by_words(reference, hypothesis))


def char_counts(reference: str, hypothesis: str) -> Counts:
    """Counts of characters in the alignment with the fewest errors. Several spaces are one, at the ends none."""
    return _counts(_by_characters(reference, hypothesis))


def merged_counts(reference: str, hypothesis: str) -> Counts:
    """Counts of words, where compounds written apart or together are equal: "note book" and "notebook".

    As on the Open ASR leaderboard. `units` are the words of the reference as it is written.
    """
    words = reference.split()
    errors = kaldialign.edit_distance(words, hypothesis.split(), merge_compounds=True)
    substitutions, deletions, insertions = errors["sub"], errors["del"], errors["ins"]
    return Counts(len(words) - substitutions - deletions, substitutions, deletions, insertions)


def alignment(reference: str, hypothesis: str, *, chars: bool = False) -> list[Aligned]:
    """The alignment that word_counts (with `chars`: char_counts) counts, unit by unit in order."""
    output = _by_characters(reference, hypothesis) if chars else _by_words(reference, hypothesis)
    expected, recognised = output.references[0], output.hypotheses[0]
    steps = []
    for chunk in output.alignments[0]:
        left = expected[chunk.ref_start_idx : chunk.ref_end_idx]
        right = recognised[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for index in range(max(len(left), len(right))):  # both have the same length, or one is empty
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
