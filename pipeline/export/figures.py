"""What an export holds, counted: sums that add up over its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.calibration.samples import value_of
from pipeline.export.labels import TRAIN, Label

LICENCES = ("license", "licence", "license_url", "rights")  # keys of the metadata that say it
UNSAID = "the source does not say"
Figures = dict[str, Counter[str]]


def count(labels: Iterable[Label]) -> Figures:
    """Sums over the kept ones of the rows that were written; `written` counts the dropped ones too.

    ms: milliseconds. expected: errors and words of rows with an expected WER.
    """
    names = ("rows_by_split", "ms_by_split", "rows_by_language", "ms_by_language")
    found: Figures = {name: Counter() for name in (*names, "licences", "models", "confidences", "expected", "written")}
    for label in labels:
        found["written"]["rows"] += 1
        if not label.kept:
            continue
        length, language = label.end_ms - label.start_ms, label.language or "unknown"
        split = label.split or TRAIN
        found["rows_by_split"][split] += 1
        found["ms_by_split"][split] += length
        found["rows_by_language"][language] += 1
        found["ms_by_language"][language] += length
        said = (value_of(label.metadata, key) for key in LICENCES)
        found["licences"][next(filter(None, said), UNSAID)] += 1
        found["models"][label.model] += 1
        found["confidences"][label.confidence_source or "none"] += 1
        if label.expected_wer is not None:
            found["expected"]["words"] += len(label.words)
            found["expected"]["errors"] += label.expected_wer * len(label.words)  # type: ignore[assignment]
    return found


def add(whole: Figures, some: Mapping[str, Mapping[str, float]]) -> None:
    """Add the sums over some rows to those over others."""
    for name, values in some.items():
        whole.setdefault(name, Counter()).update(values)


def problem(label: Label, reason: str, error: str) -> dict[str, str]:
    """The line about a row whose audio cannot be had. reason: a key of schemas.REASONS."""
    return {"id": label.label_id, "recording_id": label.recording_id, "reason": reason, "error": error}
