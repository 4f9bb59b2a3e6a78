"""Which words are confused most often, and what was recognised in recordings without words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.evaluation.result import headline
from pipeline.evaluation.score import alignment

_COLUMNS = ["recording_id", "language", "status", "reference", "reference_normal", "hypothesis_normal"]


class Confused(NamedTuple):
    """A word, or a character where the language is judged by them. "" on one side: deleted or inserted."""

    language: str
    reference: str
    hypothesis: str
    times: int


class Phantom(NamedTuple):
    """A recording without words in its reference, and what was recognised in it."""

    language: str
    recording_id: str
    text: str


def most_confused(rows: pa.Table, most: int) -> list[Confused]:
    """The most frequent errors of each language, at most `most` of each, languages in the order of the rows.

    rows: schemas.EVALUATED. Recordings without a transcript are left out: nothing was confused in them.
    """
    by_language: dict[str, Counter[tuple[str, str]]] = {}
    for row in _transcribed(rows):
        if row["reference_normal"]:
            chars = headline(row["language"]) == "CER"
            steps = alignment(row["reference_normal"], row["hypothesis_normal"], chars=chars)
            errors = [(step.reference, step.hypothesis) for step in steps if step.operation != "equal"]
            by_language.setdefault(row["language"], Counter()).update(errors)
    return [
        Confused(language, reference, hypothesis, times)
        for language, counted in by_language.items()
        for (reference, hypothesis), times in sorted(counted.items(), key=lambda one: (-one[1], one[0]))[:most]
    ]


def phantoms(rows: pa.Table, most: int) -> list[Phantom]:
    """What was recognised where the reference is silence, the longest texts first, at most `most`."""
    found = [
        Phantom(row["language"], row["recording_id"], row["hypothesis_normal"])
        for row in _transcribed(rows)
        if not row["reference_normal"] and row["hypothesis_normal"]
    ]
    return sorted(found, key=lambda one: (-len(one.text), one.recording_id))[:most]


def _transcribed(rows: pa.Table) -> list[Mapping[str, Any]]:
    """The rows with a transcript and a reference, which may be empty."""
    given = rows.select(_COLUMNS).to_pylist()
    return [row for row in given if row["status"] == "transcribed" and row["reference"] is not None]
