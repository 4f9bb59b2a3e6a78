"""What reports show of a published output: a sample of transcripts and the hours of each language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.stitch import join_words
from pipeline.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Line:
    """A recording with the text of all its segments. confidence: mean over its characters, None without any."""

    recording_id: str
    language: str | None
    text: str
    confidence: float | None


def sample_lines(storage: Storage, limit: int) -> list[Line]:
    """The first `limit` recordings of the published transcripts, in their order."""
    columns = ["recording_id", "language", "text", "confidence"]
    rows: dict[str, list[tuple[str | None, str, float | None]]] = {}
    for key in _parts(storage, "transcripts"):
        with storage.open(key) as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for recording, *row in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                    if recording not in rows and len(rows) == limit:
                        return [_line(name, held) for name, held in rows.items()]
                    rows.setdefault(recording, []).append((row[0], row[1], row[2]))
    return [_line(name, held) for name, held in rows.items()]


def sample_letters(storage: Storage, limit: int) -> list[dict[str, str | None]]:
    """The first `limit` dead letters: recording_id, reason, stage, error, source_uri, source_member."""
    columns = ["recording_id", "reason", "stage", "error", "source_uri", "source_member"]
    found: list[dict[str, str | None]] = []
    for key in _parts(storage, "dead_letters"):
        with storage.open(key) as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(batch_size=limit, columns=columns):
                found.extend(batch.to_pylist())
                if len(found) >= limit:
                    return found[:limit]
    return found


def language_hours(storage: Storage) -> dict[str, float]:
    """Hours of published segments by language, "unknown" where there is none; most first. Reads three columns."""
    milliseconds: dict[str, int] = defaultdict(int)
    for key in _parts(storage, "transcripts"):
        with storage.open(key) as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(columns=["language", "start_ms", "end_ms"]):
                length = pc.subtract(batch["end_ms"], batch["start_ms"])
                for row in _sums(batch["language"], length):
                    milliseconds[row[0]] += row[1]
    return {name: total / 3_600_000 for name, total in sorted(milliseconds.items(), key=lambda item: -item[1])}


def _sums(languages: pa.Array, lengths: pa.Array) -> Iterator[tuple[str, int]]:
    table = pa.table({"language": pc.fill_null(languages, "unknown"), "length": lengths})
    for row in table.group_by("language").aggregate([("length", "sum")]).to_pylist():
        yield row["language"], row["length_sum"]


def _parts(storage: Storage, table: str) -> Iterator[str]:
    return (key for key in storage.list(f"{table}/") if key.endswith(".parquet"))


def joined(segments: Iterable[tuple[str, float | None]]) -> tuple[str, float | None]:
    """Text and confidence of a recording from those of its segments, in order; the mean is over characters."""
    held = list(segments)
    weighted = [(confidence, len(text) or 1) for text, confidence in held if confidence is not None]
    weight = sum(length for _, length in weighted)
    confidence = sum(value * length for value, length in weighted) / weight if weight else None
    return join_words([{"text": text} for text, _ in held if text]), confidence


def _line(recording_id: str, rows: list[tuple[str | None, str, float | None]]) -> Line:
    return Line(recording_id, rows[0][0], *joined((text, confidence) for _, text, confidence in rows))
