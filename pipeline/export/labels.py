"""The rows of an export: those of labels, or segments of transcripts as such."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from pipeline.config import ConfigError
from pipeline.evaluation.rows import speaker_of
from pipeline.labels.splits import label_id
from pipeline.output.tables import as_now, opened_part
from pipeline.storage.base import Storage

TRAIN = "train"  # where rows without a split are written: nobody has split them, or they are dropped
NO_TEXT = "no_text"  # the reason why a segment of transcripts is no label
LABELS_AT, TRANSCRIPTS_AT = "labels/", "transcripts/"


@dataclass(frozen=True, slots=True)
class Label:
    """One row to export. Times in ms of the recording's file. words: as in schemas.WORD, with such times.

    expected_wer: in [0, 1]; None: nothing says it. reason: why it is dropped; None: it is kept.
    """

    label_id: str
    recording_id: str
    segment_indices: list[int]
    channel: int | None
    start_ms: int
    end_ms: int
    language: str | None
    text: str
    words: list[dict[str, Any]]
    confidence: float | None
    confidence_source: str | None
    steps: int | None
    metadata: str | None
    unit_id: str
    model: str
    fingerprint: str
    speaker: str | None
    expected_wer: float | None
    kept: bool
    reason: str | None
    split: str | None
    policy: str | None

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ms - self.start_ms) / 1000


_FIELDS = tuple(field.name for field in fields(Label))
_OF_LABELS = ("label_id", "segment_indices", "speaker", "expected_wer", "kept", "reason", "split", "policy")
_OF_TRANSCRIPTS = [name for name in _FIELDS if name not in _OF_LABELS]
_CHOICE = ("kept", "reason", "split")
_PLANNED = ("recording_id", "start_ms", "end_ms", "unit_id")


def parts(storage: Storage) -> dict[str, str]:
    """The Parquet files of the input with their versions: labels if there are any, else transcripts. In order.

    Raises ConfigError if there are none.
    """
    for prefix in (LABELS_AT, TRANSCRIPTS_AT):
        found = {key: version for key, version in storage.versions(prefix).items() if key.endswith(".parquet")}
        if found:
            return dict(sorted(found.items()))
    raise ConfigError(f"input.uri: {storage.uri}: neither labels nor published transcripts are there")


def read_labels(storage: Storage, key: str, first: int = 0, stop: int | None = None) -> Iterator[Label]:
    """The rows `first` to before `stop` of one file. Memory: a row group."""
    columns = list(_FIELDS) if key.startswith(LABELS_AT) else [*_OF_TRANSCRIPTS, "segment_index"]
    for row in _rows(storage, key, columns, first, stop):
        yield Label(**row) if key.startswith(LABELS_AT) else _of_segment(row)


def read_choices(storage: Storage, key: str) -> Iterator[dict[str, Any]]:
    """For every row of one file: where it is, and kept, reason and split."""
    is_labels = key.startswith(LABELS_AT)
    for row in _rows(storage, key, [*_PLANNED, *(_CHOICE if is_labels else ["text"])], 0, None):
        yield row if is_labels else row | _choice(row["text"])


def _of_segment(row: dict[str, Any]) -> Label:
    """A segment of transcripts as a label: kept if it has a text; a calibrated confidence says its expected WER."""
    index = row.pop("segment_index")
    is_calibrated = (row["confidence_source"] or "").startswith("calibrated") and row["confidence"] is not None
    return Label(
        **row | {"words": row["words"] or []},
        **_choice(row["text"]),
        label_id=label_id(row["model"], row["recording_id"], row["channel"], [index]),
        segment_indices=[index],
        speaker=speaker_of(row["metadata"]),
        expected_wer=1 - row["confidence"] if is_calibrated else None,
        policy=None,
    )


def _choice(text: str) -> dict[str, Any]:
    kept = bool(text.strip())
    return {"kept": kept, "reason": None if kept else NO_TEXT, "split": TRAIN if kept else None}


def _rows(storage: Storage, key: str, columns: list[str], first: int, stop: int | None) -> Iterator[dict[str, Any]]:
    with opened_part(storage, key) as file:
        at = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            low, high = max(first - at, 0), count if stop is None else min(stop - at, count)
            at += count
            if low < high:
                table = file.read_row_group(group, columns=columns, use_threads=False)
                if not key.startswith(LABELS_AT):
                    table = as_now(table, "transcripts", columns, f"{storage.uri}/{key}")
                for batch in table.slice(low, high - low).to_batches(max_chunksize=1024):
                    yield from batch.to_pylist()
