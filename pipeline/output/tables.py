"""What reports show of a published output: transcripts and dead letters, row by row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.commit import SCHEMAS
from pipeline.output.stitch import join_words
from pipeline.schemas import widened
from pipeline.storage.base import OutputError, Storage, undamaged


@dataclass(frozen=True, slots=True)
class Line:
    """A recording with the text of all its segments. confidence: mean over its characters in [0, 1], or None."""

    recording_id: str
    language: str | None
    text: str
    confidence: float | None


def published_rows(storage: Storage, table: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """These columns of a published table (transcripts or dead_letters), row by row; nothing where it is not published.

    Reads as far as the rows are taken.
    """
    for key in part_keys(storage, table):
        with opened_part(storage, key) as file:
            for batch in file.iter_batches(batch_size=1024, columns=list(columns)):
                yield from as_now(pa.Table.from_batches([batch]), table, columns, f"{storage.uri}/{key}").to_pylist()


@contextlib.contextmanager
def opened_part(storage: Storage, key: str) -> Iterator[pq.ParquetFile]:
    """A part of a table, open. Raises OutputError, which names it, where it or what the block reads is damaged."""
    with undamaged(f"{storage.uri}/{key}"), storage.open(key) as stream, pq.ParquetFile(stream) as file:
        yield file


def as_now(part: pa.Table, table: str, columns: Sequence[str], name: str) -> pa.Table:
    """Rows of a published table as this version writes them: what an earlier version did not write is null.

    table: transcripts or dead_letters. name: of its file, for the OutputError that is raised where that is impossible.
    """
    try:
        return widened(part, pa.schema([SCHEMAS[table].field(column) for column in columns]))
    except ValueError as err:
        raise OutputError(f"{name}: {err}") from None


def sample_lines(storage: Storage, limit: int) -> list[Line]:
    """The first `limit` recordings of the published transcripts, in the order of the table."""
    segments: dict[str, list[dict[str, Any]]] = {}
    for row in published_rows(storage, "transcripts", ["recording_id", "language", "text", "confidence"]):
        if row["recording_id"] not in segments and len(segments) == limit:
            break
        segments.setdefault(row["recording_id"], []).append(row)
    return [
        Line(name, rows[0]["language"], *joined((row["text"], row["confidence"]) for row in rows))
        for name, rows in segments.items()
    ]


def sample_letters(storage: Storage, limit: int) -> list[dict[str, str | None]]:
    """The first `limit` dead letters: recording_id, reason, stage, error, source_uri, source_member."""
    columns = ["recording_id", "reason", "stage", "error", "source_uri", "source_member"]
    return list(islice(published_rows(storage, "dead_letters", columns), limit))


def part_keys(storage: Storage, table: str) -> Iterator[str]:
    """The files of a published table (transcripts or dead_letters), in order."""
    return (key for key in storage.list(f"{table}/") if key.endswith(".parquet"))


def joined(segments: Iterable[tuple[str, float | None]]) -> tuple[str, float | None]:
    """Text and mean confidence of a recording from its segments (text, confidence) in order.

    The mean is weighted by characters; segments without a confidence are left out of it. None where none has one.
    """
    given = list(segments)
    weighted = [(confidence, len(text) or 1) for text, confidence in given if confidence is not None]
    weight = sum(length for _, length in weighted)
    confidence = sum(value * length for value, length in weighted) / weight if weight else None
    return join_words([{"text": text} for text, _ in given if text]), confidence
