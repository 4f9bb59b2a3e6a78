"""One recording as a row of schemas.EVALUATED: normalised, corrupted where that is asked for, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.evaluation.corrupt import CorruptConfig, corrupt
from pipeline.evaluation.normalise import normaliser
from pipeline.evaluation.result import CHARACTER_LANGUAGES, Counts
from pipeline.evaluation.rows import Heard
from pipeline.evaluation.score import char_counts, merged_counts, word_counts


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
