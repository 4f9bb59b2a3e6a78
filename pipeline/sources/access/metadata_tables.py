"""Tables that describe the audio files of a folder: metadata.csv, .tsv or .jsonl, and metadata.csv of LJ Speech."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from pipeline.config import ConfigError
from pipeline.schemas import BadRecording
from pipeline.sources.access import fields, remote
from pipeline.sources.access.lines import Row, read_manifest, read_table
from pipeline.sources.access.listing import File, find_files
from pipeline.storage.errors import StorageError

STEM, EXTENSIONS = "metadata", ("csv", "tsv", "jsonl")
NAMES = tuple(f"{STEM}.{extension}" for extension in EXTENSIONS)
REMOTE_DEPTH, REMOTE_FOLDERS = 2, 64  # of a store only so many folders are searched: each costs a request or more
NOT_READ = (
    f"tables were not read: of a store only the first {REMOTE_FOLDERS} folders with audio, at most {REMOTE_DEPTH} "
    "deep, are searched for them"
)
PIPED = ("file_name", "transcription", "normalized_text", "speaker")  # LJ Speech and its like: "LJ001-0001|text|text"


class Described(NamedTuple):
    """A row that describes an audio file. column: the one with its path, or "" if the id is the path."""

    columns: dict[str, Any]
    column: str


class _Table(NamedTuple):
    """rows: by the path from the table's folder, or with LJ Speech by the name without extension. bad: not usable."""

    file: File
    rows: dict[str, Described]
    bad: list[str]


class MetadataTables:
    """Finds the row of an audio file in the tables of its folder and of those above it, up to the source's root.

    Memory: the rows of all tables that were read, until they are used.
    """

    def __init__(self) -> None:
        self._tables: dict[str, list[_Table]] = {}  # by URI of the folder, with a slash at its end

    def row(self, file: File) -> Described | None:
        """Return the row of a file, once. Raises ConfigError if a table cannot be read."""
        if not file.uri.endswith(f"/{file.name}"):  # a chain of URLs
            return None
        root = file.uri.removesuffix(file.name)
        folders = file.name.split("/")[:-1]
        for depth in range(len(folders), -1, -1):
            below = "".join(f"{folder}/" for folder in folders[:depth])
            for table in self._of(f"{root}{below}", depth):
                path = file.name.removeprefix(below)
                stem = path.rpartition(".")[0]
                for key in (path, stem, f"*/{stem.rpartition('/')[2]}"):
                    if described := table.rows.pop(key, None):
                        return described
        return None

    def is_table(self, file: File) -> bool:
        """Return whether this file is a table that was read."""
        tables = self._tables.get(file.uri.rpartition("/")[0] + "/", ())
        return any(table.file.uri == file.uri for table in tables)

    def is_passed_over(self, file: File) -> bool:
        """Return whether this file is named as a table, and a limit keeps its folder from being searched."""
        folder, _, name = file.uri.rpartition("/")
        is_too_far = file.name.count("/") > REMOTE_DEPTH or len(self._tables) >= REMOTE_FOLDERS
        return name in NAMES and is_too_far and not folder.startswith("/") and f"{folder}/" not in self._tables

    def unused(self) -> Iterator[str]:
        """Yield where the rows are that no audio file has used."""
        for table in chain.from_iterable(self._tables.values()):
            yield from table.bad
            yield from (f"{table.file.uri}: {key.removeprefix('*/')}" for key in table.rows)

    def _of(self, folder: str, depth: int) -> list[_Table]:
        """The tables in a folder; of the folders of a store only the first ones."""
        if folder not in self._tables:
            is_searched = folder.startswith("/") or (depth <= REMOTE_DEPTH and len(self._tables) < REMOTE_FOLDERS)
            if not is_searched:
                return []
            self._tables[folder] = [_read(file) for file in find_files(folder, STEM, EXTENSIONS)]
        return self._tables[folder]


def _read(file: File) -> _Table:
    table = _Table(file, {}, [])
    piped = _piped_columns(file)
    for row in read_table(file, piped, "|") if piped else read_manifest(file):
        try:
            if row.error is not None:
                raise row.error
            key, column = (f"*/{row.columns['file_name']}", "file_name") if piped else _key(row)
        except BadRecording:
            table.bad.append(f"{file.uri}:{row.line}")
        else:
            table.rows.setdefault(key, Described(row.columns, column))
    return table


def _key(row: Row) -> tuple[str, str]:
    column, path = fields.audio_path(row.columns)
    return posixpath.normpath(path.strip().replace("\\", "/")), column


def _piped_columns(file: File) -> tuple[str, ...]:
    """Return the names of the columns of a file without header whose cells are separated by "|"; none otherwise."""
    if not file.name.lower().endswith(".csv"):
        return ()
    try:
        with remote.open_stream(file.uri) as stream:
            first = stream.readline(fields.MAX_TEXT_BYTES).decode("utf-8-sig", "replace")
    except StorageError:
        raise
    except OSError as err:
        raise ConfigError(f"source.uri: {file.uri}: {remote.one_line(err)}") from None
    cells = first.split("|")
    is_header = any(cell.strip().lower() in (*fields.AUDIO_NAMES, *fields.ID_NAMES) for cell in cells)
    return PIPED[: len(cells)] if 2 <= len(cells) <= len(PIPED) and not is_header else ()
