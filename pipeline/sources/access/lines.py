"""Rows of manifests and tables: JSON lines, CSV or TSV, plain or gzipped. Reading goes on after a bad line."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

from pipeline.config import ConfigError
from pipeline.schemas import BadRecording
from pipeline.sources.access import fields, remote
from pipeline.sources.access.listing import File
from pipeline.storage.errors import StorageError

MAX_QUOTED_LINES = 64  # lines that one quoted CSV cell may have; beyond them its opening quote is a mistake

Line = tuple[int, str | BadRecording]  # number from 1; its text, or why it cannot be read
csv.field_size_limit(fields.MAX_TEXT_BYTES)  # the default is 131,072 characters
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class Row(NamedTuple):
    """One row of a manifest or table. line: where it begins, from 1. error: why it has no columns, if it is bad."""

    line: int
    columns: dict[str, Any]
    error: BadRecording | None = None


def kind_of(name: str) -> str | None:
    """Return "jsonl", "json", "csv" or "tsv" by the extension, with or without .gz after it. None for other files."""
    extension = name.lower().removesuffix(".gz").rpartition(".")[2]
    return {"jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "csv": "csv", "tsv": "tsv"}.get(extension)


def read_manifest(file: File) -> Iterator[Row]:
    """Yield the rows of a JSON lines, CSV or TSV file in order. Empty lines are skipped, an empty cell is None.

    Memory: one line, at most 4 MiB; a longer line is a bad row. If the rest of the file cannot be read, the last row
    has the error "truncated_archive", "corrupt_archive" or "missing_file". Raises ConfigError if a table has no header,
    if the file is one JSON array, and if the disk fails.
    """
    lines = _lines(file)
    return _csv(file, lines) if kind_of(file.name) in ("csv", "tsv") else _json(file, lines)


def read_table(file: File, column_names: Sequence[str] = (), delimiter: str = "\t") -> Iterator[Row]:
    """Yield the rows of a corpus' own table, in which quotes are plain characters.

    column_names: for a file without a header. delimiter: between the cells. Empty lines are skipped, an empty cell is
    None. A row with too many or too few cells is bad. Memory and errors: as in `read_manifest`.
    """
    header = list(column_names)
    for line, text in _lines(file):
        if isinstance(text, BadRecording):
            if not header:
                raise ConfigError(f"source.uri: {text.detail}")
            yield Row(line, {}, text)
        elif text.strip("\r\n"):
            cells = text.rstrip("\r\n").split(delimiter)
            if not header:
                header = _header(file, text, cells)
            elif len(cells) != len(header):
                yield Row(line, {}, _bad(file, line, f"{len(cells)} cells, but {len(header)} columns"))
            else:
                yield Row(line, {name: cell or None for name, cell in zip(header, cells, strict=True)})


def _json(file: File, lines: Iterator[Line]) -> Iterator[Row]:
    for line, text in lines:
        if isinstance(text, BadRecording):
            yield Row(line, {}, text)
        elif text.strip():
            if line == 1 and text.lstrip().startswith("["):
                raise ConfigError(f"source.uri: {file.uri}: a JSON array; a manifest has one JSON object per line")
            try:
                yield Row(line, fields.from_json(text, f"{file.uri}:{line}"))
            except BadRecording as err:
                yield Row(line, {}, err)


def _csv(file: File, lines: Iterator[Line]) -> Iterator[Row]:
    put_back: deque[Line] = deque()  # lines to be read again
    header: list[str] = []
    is_spaced = False  # there are spaces around the names of the header, so around the other cells too
    while item := put_back.popleft() if put_back else next(lines, None):
        line, text = item
        if isinstance(text, BadRecording):
            if not header:
                raise ConfigError(f"source.uri: {text.detail}")
            yield Row(line, {}, text)
        elif text.strip():
            cells = _cells(file, text, len(header), put_back, lines)
            if not header:
                header = _header(file, text, cells or ())
                is_spaced = header != cells
            elif cells is None or len(cells) != len(header):
                content = "not CSV" if cells is None else f"{len(cells)} cells"
                yield Row(line, {}, _bad(file, line, f"{content}; the header has {len(header)} cells"))
            else:
                cells = [cell.strip() for cell in cells] if is_spaced else cells
                yield Row(line, {name: cell or None for name, cell in zip(header, cells, strict=True)})


def _header(file: File, text: str, cells: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not header or len(set(header)) < len(header) or not all(header):
        raise ConfigError(f"source.uri: {file.uri}: the first line is not a header: {text.strip():.100}")
    return header


def _cells(file: File, text: str, width: int, put_back: deque[Line], lines: Iterator[Line]) -> list[str] | None:
    """Return the cells of the row that begins with the line `text`. width: how many there must be; 0: any number.

    A quoted cell may go on over the next lines. If they do not complete the row, only this line is bad (None), and the
    lines after it are put back. In TSV, quotes are plain characters unless they enclose a whole cell.
    """
    if kind_of(file.name) == "tsv":
        cells = text.rstrip("\r\n").split("\t")
        return [cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell for cell in cells]
    parsed = _parse(text)
    added: list[Line] = []
    while parsed is None and len(added) < MAX_QUOTED_LINES:
        item = put_back.popleft() if put_back else next(lines, None)
        if item is None:
            break
        added.append(item)
        if isinstance(item[1], BadRecording):
            break
        text += item[1]
        parsed = _parse(text)
        if parsed is not None and width not in (0, len(parsed)):
            parsed = None
            break
    if parsed is None:
        put_back.extendleft(reversed(added))
    return parsed


def _parse(text: str) -> list[str] | None:
    """Return the cells of a CSV row; None if a quote is still open or misplaced."""
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        return None


def _lines(file: File) -> Iterator[Line]:
    """Yield each line. If the rest of the file cannot be read, the last line is the reason."""
    line = 0
    try:
        with remote.open_stream(file.uri) as raw:
            packed = file.name.lower().endswith(".gz")
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
            while data := stream.readline(fields.MAX_TEXT_BYTES):
                line += 1
                if len(data) == fields.MAX_TEXT_BYTES and not data.endswith(b"\n"):
                    _skip_line(stream)
                    yield line, _bad(file, line, f"longer than {fields.MAX_TEXT_BYTES:,} bytes")
                    continue
                try:
                    yield line, data.decode("utf-8-sig" if line == 1 else "utf-8")
                except UnicodeDecodeError as err:
                    yield line, _bad(file, line, f"not UTF-8 at byte {err.start}")
    except BadRecording as err:
        yield line + 1, err
    except StorageError:
        raise
    except EOFError:
        yield line + 1, BadRecording("truncated_archive", f"{file.uri}:{line + 1}: the gzip stream ends too early")
    except (gzip.BadGzipFile, zlib.error) as err:
        yield line + 1, BadRecording("corrupt_archive", f"{file.uri}:{line + 1}: {remote.one_line(err)}")
    except OSError as err:
        raise ConfigError(f"source.uri: {file.uri}:{line + 1}: {remote.one_line(err)}") from None


def _skip_line(stream: BinaryIO) -> None:
    """Read on to the end of the line."""
    while (more := stream.readline(fields.MAX_TEXT_BYTES)) and not more.endswith(b"\n"):
        pass


def _bad(file: File, line: int, what: str) -> BadRecording:
    return BadRecording("bad_metadata", f"{file.uri}:{line}: {what}")
