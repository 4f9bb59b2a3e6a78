"""What an export holds, counted: sums that add up over its shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.export.labels import Label
from pipeline.export.shards import split_of

LICENCES = ("license", "licence", "license_url", "rights")  # keys of the metadata that say it
UNSAID = "the source does not say"
Figures = dict[str, Counter[str]]


def count(labels: Iterable[Label]) -> Figures:
    """Sums over rows that were written. ms: milliseconds. expected: errors and words of rows with an expected WER."""
    names = ("rows_by_split", "ms_by_split", "rows_by_language", "ms_by_language")
    found: Figures = {name: Counter() for name in (*names, "licences", "models", "confidences", "expected")}
    for label in labels:
        length, language = label.end_ms - label.start_ms, label.language or "unknown"
        split = split_of({"split": label.split})
        found["rows_by_split"][split] += 1
        found["ms_by_split"][split] += length
        found["rows_by_language"][language] += 1
        found["ms_by_language"][language] += length
        found["licences"][licence_of(label.metadata) or UNSAID] += 1
        found["models"][label.model] += 1
        found["confidences"][label.confidence_source or "none"] += 1
        if label.expected_wer is not None:
            found["expected"]["words"] += len(label.words)
            found["expected"]["errors"] += label.expected_wer * len(label.words)  # type: ignore[assignment]
    return found


def merge(all_of: Iterable[Mapping[str, Mapping[str, float]]]) -> Figures:
    """The sums over several."""
    whole: Figures = {}
    for one in all_of:
        for name, values in one.items():
            whole.setdefault(name, Counter()).update(values)
    return whole


def licence_of(metadata: str | None) -> str | None:
    """What the metadata of a recording says of its licence; None: nothing."""
    columns: Any = json.loads(metadata) if metadata else None
    if not isinstance(columns, dict):
        return None
    return next((str(columns[key]) for key in LICENCES if columns.get(key)), None)


def problem(label: Label, reason: str, error: str) -> dict[str, str]:
    """The line about a row whose audio cannot be had. reason: a key of schemas.REASONS."""
    return {"id": label.label_id, "recording_id": label.recording_id, "reason": reason, "error": error}
