"""Parquet files with a column of encoded audio. Listing does not read the audio; reading it takes bounded memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import SourceConfig
from pipeline.schemas import ARCHIVE, BadRecording, Recording, RecordingRef
from pipeline.sources.access import columns, names, remote
from pipeline.sources.access.listing import File, Planned, list_files
from pipeline.storage.errors import StorageError

LIST_ROWS = 4096  # rows whose small columns are read at once
READ_ROWS, READ_BYTES = 8, 32 << 20  # audio that is read at once: so many rows, or fewer if they exceed these bytes
AHEAD_BYTES = 1 << 18  # fetched from a store at once, at least
_ERRORS = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError)

_local = threading.local()  # `reader`: the _Reader of this thread


@dataclass(slots=True)
class _Reader:
    """An open file and how far one of its row groups has been read."""

    key: tuple[str, str]  # URI and version
    file: pq.ParquetFile
    stream: BinaryIO  # of the file
    group: tuple[int, str] | None = None  # row group and audio column
    batches: Iterator[pa.RecordBatch] = iter(())  # noqa: RUF009
    cells: pa.Array | None = None  # the batch that was read last
    first: int = 0  # row of its first cell within the row group


def list_recordings(
    source: SourceConfig, planned: Planned | None = None, ignored: Counter[str] | None = None
) -> Iterator[RecordingRef]:
    """Yield one ref per row. Ids are as in `columns.Rows`, else "<file without .parquet>/<row>".

    Files that `planned` has are left out, and not opened. ignored: counts files that are no Parquet, by extension.

    Reference, language and metadata come from the other columns of text and numbers; the path in a cell of audio is
    metadata too. source_member is "rg<row group>:<row in it>:<audio column>", size the mean bytes of the row group's
    cells. A file that cannot be read is one ref "<file>!archive"; a row that cannot be read is a ref with a problem.
    Raises ConfigError if there is no file, or if a file lacks the audio or a column that the settings name.
    """
    rows = columns.Rows(source, planned)
    for file in list_files(source.uri):
        if not file.named and not file.name.lower().endswith((".parquet", ".pq")):
            if ignored is not None:
                ignored[names.extension_of(file.name)] += 1
        elif not (planned and planned.has(file)):
            yield from _list_file(source, file, rows)
    rows.say_repeated()


def read_recording(ref: RecordingRef) -> Recording:
    """Read the audio of one row. Reading rows in order needs one pass over their row group, with few rows in memory.

    Raises BadRecording: "corrupt_archive", "missing_file" (also for an empty cell), "too_large".
    """
    group, row, column = (ref.source_member or "").removeprefix("rg").split(":", 2)
    cell = _cell(ref, int(group), int(row), column)
    audio = columns.audio_bytes(cell, ref.source_uri, columns.rate_of(ref))
    version = remote.version_read(_local.reader.stream)
    return Recording(audio, ref.language, ref.reference, ref.metadata, version)


def _list_file(source: SourceConfig, file: File, rows: columns.Rows) -> Iterator[RecordingRef]:
    name = file.name.rpartition(".")[0] or file.name
    try:
        opened, _ = _open(file.uri)
    except BadRecording as err:
        ref = RecordingRef(f"{name}{ARCHIVE}", "parquet", file.uri, size=file.size, version=file.version)
        yield replace(ref, problem=err.reason, problem_detail=err.detail)
        return
    with opened:
        schema = opened.schema_arrow
        audio = columns.audio_column(schema, source, file.uri)
        wanted, labels = columns.plain_columns(schema, source), columns.class_labels(schema)
        if columns.has_path(schema.field(audio).type):
            wanted.append(f"{audio}.path")
        first = 0
        for group in range(opened.num_row_groups):
            info = opened.metadata.row_group(group)
            chunks = (info.column(index) for index in range(info.num_columns))
            size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] == audio)
            base = RecordingRef("", "parquet", file.uri, size=size // max(info.num_rows, 1), version=file.version)
            for index, row in enumerate(_rows(opened, group, info.num_rows, wanted)):
                ref = replace(base, recording_id=f"{name}/{first + index}", source_member=f"rg{group}:{index}:{audio}")
                if isinstance(row, dict):
                    row = columns.with_labels(columns.with_path(row, audio), labels)
                yield rows.ref(ref, row)
            first += info.num_rows


def _rows(opened: pq.ParquetFile, group: int, count: int, plain: list[str]) -> Iterator[dict[str, Any] | BadRecording]:
    """Yield the small columns of each of the `count` rows of a group. Rows that cannot be read are their error."""
    done = 0
    problem = BadRecording("corrupt_archive", f"row group {group} has fewer rows than it declares")
    try:
        if not plain:
            yield from ({} for _ in range(count))
            return
        for batch in opened.iter_batches(LIST_ROWS, row_groups=[group], columns=plain, use_threads=False):
            for row in columns.rows_of(batch):
                done += 1
                yield row
    except StorageError:
        raise
    except _ERRORS as err:
        problem = BadRecording("corrupt_archive", f"row group {group}: {remote.one_line(err)}")
    yield from (problem for _ in range(count - done))


def _cell(ref: RecordingRef, group: int, row: int, column: str) -> Any:
    reader: _Reader | None = getattr(_local, "reader", None)
    _local.reader = None  # after an error the next call opens the file again
    key = (ref.source_uri, ref.version)
    if reader is None or reader.key != key:
        if reader is not None:
            reader.file.close()
        reader = _Reader(key, *_open(ref.source_uri))
    try:
        if reader.group != (group, column) or row < reader.first:
            reader.group, reader.first, reader.cells = (group, column), 0, None
            rows = max(1, min(READ_ROWS, READ_BYTES // max(1, ref.size)))
            reader.batches = reader.file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False)
        while reader.cells is None or row >= reader.first + len(reader.cells):
            reader.first += len(reader.cells) if reader.cells is not None else 0
            reader.cells = next(reader.batches).column(0)
        cell = reader.cells[row - reader.first].as_py()
    except StorageError:
        raise
    except (*_ERRORS, StopIteration, IndexError) as err:
        reader.file.close()
        raise BadRecording("corrupt_archive", f"{ref.source_uri}: row group {group}: {remote.one_line(err)}") from None
    _local.reader = reader
    return cell


def _open(uri: str) -> tuple[pq.ParquetFile, BinaryIO]:
    """A file and its stream."""
    stream = remote.open_stream(uri, AHEAD_BYTES)
    try:
        return pq.ParquetFile(stream, pre_buffer=False, buffer_size=AHEAD_BYTES), stream
    except StorageError:
        raise
    except _ERRORS as err:
        stream.close()
        raise BadRecording("corrupt_archive", f"{uri}: {remote.one_line(err)}") from None
