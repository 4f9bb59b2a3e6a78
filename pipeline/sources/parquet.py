"""Parquet files with a column of encoded audio: listed without it, read row by row in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef, UnreachableError
from pipeline.sources.access import columns, remote
from pipeline.sources.access.listing import File, list_files

LIST_ROWS = 4096  # rows of the small columns that are read at once
READ_ROWS, READ_BYTES = 8, 32 << 20  # rows of audio that are read at once: so many, or fewer where they are large
AHEAD_BYTES = 1 << 18  # fetched at once from a store, at least
_ERRORS = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError)

_local = threading.local()  # the row group this thread is in


@dataclass(slots=True)
class _Position:
    """An open file and where its row group has been read to: rows first..first+len(rows) are at hand."""

    key: tuple[str, str]
    file: pq.ParquetFile
    place: tuple[int, str] | None = None  # row group, audio column
    batches: Iterator[pa.RecordBatch] = iter(())  # noqa: RUF009
    first: int = 0
    rows: pa.Array | None = None


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """One ref per row; ids from source.id_column, else "<file without .parquet>/<row>". source_member is
    "rg<row group>:<row in it>:<audio column>".

    Reference, language and metadata come from the other columns of text and numbers. `size` is the mean of the row
    group. A file that cannot be read gives one ref "<file>!archive", rows that cannot, one each ("corrupt_archive").
    Raises ConfigError where no file is there, or where a column that was asked for or the audio is not in it.
    """
    for file in list_files(source.uri):
        if file.named or file.name.lower().endswith((".parquet", ".pq")):
            yield from _list_file(source, file)


def read_recording(ref: RecordingRef) -> Recording:
    """The audio of one row. Rows read in order cost one pass over their row group; only a few are in memory.

    Raises BadRecording: "corrupt_archive", "missing_file" (also for an empty cell), "too_large".
    """
    group, row, column = (ref.source_member or "").removeprefix("rg").split(":", 2)
    cell = _cell(ref, int(group), int(row), column)
    return Recording(columns.audio_bytes(cell, ref.source_uri), ref.language, ref.reference, ref.metadata)


def _list_file(source: SourceConfig, file: File) -> Iterator[RecordingRef]:
    name = file.name.rpartition(".")[0] or file.name
    try:
        parquet = _open(file.uri)
    except BadRecording as err:
        ref = RecordingRef(f"{name}!archive", "parquet", file.uri, version=file.version)
        yield replace(ref, problem=err.reason, problem_detail=err.detail)
        return
    with parquet:
        schema = parquet.schema_arrow
        audio = columns.audio_column(schema, source, file.uri)
        plain, labels = columns.plain_columns(schema, source), columns.class_labels(schema)
        first = 0
        for group in range(parquet.num_row_groups):
            info = parquet.metadata.row_group(group)
            chunks = (info.column(index) for index in range(info.num_columns))
            size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] == audio)
            base = RecordingRef("", "parquet", file.uri, size=size // max(info.num_rows, 1), version=file.version)
            for row, described in enumerate(_rows(parquet, group, info.num_rows, plain)):
                ref = replace(base, recording_id=f"{name}/{first + row}", source_member=f"rg{group}:{row}:{audio}")
                if isinstance(described, dict):
                    described = columns.with_labels(described, labels)
                yield columns.with_row(ref, described, source)
            first += info.num_rows


def _rows(parquet: pq.ParquetFile, group: int, count: int, plain: list[str]) -> Iterator[dict[str, Any] | BadRecording]:
    """The small columns of each row of a group; from where they cannot be read, why."""
    done = 0
    problem = BadRecording("corrupt_archive", f"row group {group} has fewer rows than it declares")
    try:
        if not plain:
            yield from ({} for _ in range(count))
            return
        for batch in parquet.iter_batches(LIST_ROWS, row_groups=[group], columns=plain, use_threads=False):
            for row in columns.rows_of(batch):
                done += 1
                yield row
    except UnreachableError:
        raise
    except _ERRORS as err:
        problem = BadRecording("corrupt_archive", f"row group {group}: {remote.one_line(err)}")
    yield from (problem for _ in range(count - done))


def _cell(ref: RecordingRef, group: int, row: int, column: str) -> Any:
    at: _Position | None = getattr(_local, "at", None)
    _local.at = None  # whatever fails leaves nothing half-read behind
    key = (ref.source_uri, ref.version)
    if at is None or at.key != key:
        if at is not None:
            at.file.close()
        at = _Position(key, _open(ref.source_uri))
    try:
        if at.place != (group, column) or row < at.first:
            at.place, at.first, at.rows = (group, column), 0, None
            rows = max(1, min(READ_ROWS, READ_BYTES // max(1, ref.size)))
            at.batches = at.file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False)
        while at.rows is None or row >= at.first + len(at.rows):
            at.first += len(at.rows) if at.rows is not None else 0
            at.rows = next(at.batches).column(0)
        cell = at.rows[row - at.first].as_py()
    except UnreachableError:
        raise
    except (*_ERRORS, StopIteration, IndexError) as err:
        at.file.close()
        raise BadRecording("corrupt_archive", f"{ref.source_uri}: row group {group}: {remote.one_line(err)}") from None
    _local.at = at
    return cell


def _open(uri: str) -> pq.ParquetFile:
    stream = remote.open_stream(uri, AHEAD_BYTES)
    try:
        return pq.ParquetFile(stream, pre_buffer=False, buffer_size=AHEAD_BYTES)
    except UnreachableError:
        raise
    except _ERRORS as err:
        stream.close()
        raise BadRecording("corrupt_archive", f"{uri}: {remote.one_line(err)}") from None
