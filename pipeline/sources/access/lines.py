"""Manifest files as records: JSON lines or CSV/TSV, plain or gzipped, one record at a time, bad lines told apart."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

from pipeline.config import ConfigError
from pipeline.schemas import BadRecording, UnreachableError
from pipeline.sources.access import fields, remote
from pipeline.sources.access.listing import File

MAX_QUOTED_LINES = 64  # a quoted CSV field that is not closed by then was never meant to be open


Line = tuple[int, str | BadRecording]
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class Record(NamedTuple):
    """One record and the line it begins at; `error` instead of columns where the line is bad."""

    line: int
    columns: dict[str, Any]
    error: BadRecording | None = None


def kind_of(name: str) -> str | None:
    """ "jsonl", "json", "csv" or "tsv" by the extension, also with .gz behind it; None for other files."""
    extension = name.lower().removesuffix(".gz").rpartition(".")[2]
    return {"jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "csv": "csv", "tsv": "tsv"}.get(extension)


def read_records(file: File) -> Iterator[Record]:
    """Records in order; empty lines are skipped, an empty cell of a table is None.

    Memory: one line (at most 4 MiB; a longer one is bad). A file that cannot be read further ends with a record with
    the error "truncated_archive", "corrupt_archive" or "missing_file". Raises ConfigError for a table without a header,
    for one JSON array instead of lines, and where the disk fails.
    """
    lines = _lines(file)
    return _csv(file, lines) if kind_of(file.name) in ("csv", "tsv") else _json(file, lines)


def read_rows(file: File, names: Sequence[str] = ()) -> Iterator[Record]:
    """Rows of a corpus' own TSV, where a tab and the end of a line are all the syntax: quotes are characters.

    names: of the columns where the file does not begin with them. Empty lines are skipped, an empty cell is None; a row
    with more or fewer cells than columns is bad. Memory and errors as of `read_records`.
    """
    header = list(names)
    for line, text in _lines(file):
        if isinstance(text, BadRecording):
            if not header:
                raise ConfigError(f"source.uri: {text.detail}")
            yield Record(line, {}, text)
        elif text.strip("\r\n"):
            cells = text.rstrip("\r\n").split("\t")
            if not header:
                header = _header(file, text, cells)
            elif len(cells) != len(header):
                yield Record(line, {}, _bad(file, line, f"{len(cells)} cells; there are {len(header)} columns"))
            else:
                yield Record(line, {name: cell or None for name, cell in zip(header, cells, strict=True)})


def _json(file: File, lines: Iterator[Line]) -> Iterator[Record]:
    for line, text in lines:
        if isinstance(text, BadRecording):
            yield Record(line, {}, text)
        elif text.strip():
            if line == 1 and text.lstrip().startswith("["):
                raise ConfigError(f"source.uri: {file.uri}: a JSON array; a manifest has one JSON object per line")
            try:
                yield Record(line, fields.from_json(text, f"{file.uri}:{line}"))
            except BadRecording as err:
                yield Record(line, {}, err)


def _csv(file: File, lines: Iterator[Line]) -> Iterator[Record]:
    held: deque[Line] = deque()
    header: list[str] = []
    while item := held.popleft() if held else next(lines, None):
        line, text = item
        if isinstance(text, BadRecording):
            if not header:
                raise ConfigError(f"source.uri: {text.detail}")
            yield Record(line, {}, text)
        elif text.strip():
            cells = _cells(file, text, len(header), held, lines)
            if not header:
                header = _header(file, text, cells or ())
            elif cells is None or len(cells) != len(header):
                found = "no CSV" if cells is None else f"{len(cells)} cells"
                yield Record(line, {}, _bad(file, line, f"{found}; the header has {len(header)} cells"))
            else:
                yield Record(line, {name: cell or None for name, cell in zip(header, cells, strict=True)})


def _header(file: File, text: str, cells: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not header or len(set(header)) < len(header) or not all(header):
        raise ConfigError(f"source.uri: {file.uri}: the first line is no header: {text.strip():.100}")
    return header


def _cells(file: File, text: str, width: int, held: deque[Line], lines: Iterator[Line]) -> list[str] | None:
    """The cells of a line; where a quote is open, of as many lines more as make `width` cells (0: any number).

    None where nothing does: then only this line is bad, and those looked at are `held` to be read again. TSV: quotes
    are plain characters unless they enclose a whole cell.
    """
    if kind_of(file.name) == "tsv":
        cells = text.rstrip("\r\n").split("\t")
        return [cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell for cell in cells]
    found = _parse(text)
    looked_at: list[Line] = []
    while found is None and len(looked_at) < MAX_QUOTED_LINES:
        item = held.popleft() if held else next(lines, None)
        if item is None:
            break
        looked_at.append(item)
        if isinstance(item[1], BadRecording):
            break
        text += item[1]
        found = _parse(text)
        if found is not None and width not in (0, len(found)):
            found = None
            break
    if found is None:
        held.extendleft(reversed(looked_at))
    return found


def _parse(text: str) -> list[str] | None:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        return None


def _lines(file: File) -> Iterator[Line]:
    """(number from 1, text or why it is bad); ends early, with the reason, where the file cannot be read further."""
    line = 0
    try:
        with remote.open_stream(file.uri) as raw:
            packed = file.name.lower().endswith(".gz")
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
            while data := stream.readline(fields.MAX_TEXT_BYTES):
                line += 1
                if len(data) == fields.MAX_TEXT_BYTES and not data.endswith(b"\n"):
                    while (more := stream.readline(fields.MAX_TEXT_BYTES)) and not more.endswith(b"\n"):
                        pass
                    yield line, _bad(file, line, f"longer than {fields.MAX_TEXT_BYTES:,} bytes")
                    continue
                try:
                    yield line, data.decode("utf-8-sig" if line == 1 else "utf-8")
                except UnicodeDecodeError as err:
                    yield line, _bad(file, line, f"not UTF-8 at byte {err.start}")
    except BadRecording as err:
        yield line + 1, err
    except UnreachableError:
        raise
    except EOFError:
        yield line + 1, BadRecording("truncated_archive", f"{file.uri}:{line + 1}: the gzip stream ends here")
    except (gzip.BadGzipFile, zlib.error) as err:
        yield line + 1, BadRecording("corrupt_archive", f"{file.uri}:{line + 1}: {remote.one_line(err)}")
    except OSError as err:
        raise ConfigError(f"source.uri: {file.uri}:{line + 1}: {remote.one_line(err)}") from None


def _bad(file: File, line: int, what: str) -> BadRecording:
    return BadRecording("bad_metadata", f"{file.uri}:{line}: {what}")
