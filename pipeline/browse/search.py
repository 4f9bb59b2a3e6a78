"""Search in the published tables: DuckDB over their Parquet files, wherever the output is. Values are bound."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

import duckdb
from fsspec import AbstractFileSystem

from pipeline.browse.query import Query
from pipeline.config import ConfigError
from pipeline.evaluation.settings import UNKNOWN
from pipeline.planning.plan import BASE, plan_key, read_fingerprint
from pipeline.storage.base import Storage

PAGE = 20  # rows
SCHEME = "parts"
_OFFLINE: dict[str, Any] = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
_NO_LETTER = r"[^\p{L}\p{M}\p{N}]"
_WIDE = "WF"  # the East Asian widths of signs that are written without spaces
_SOURCE = "read_parquet(?, filename = true, file_row_number = true, union_by_name = true)"
_COMMON = ("recording_id", "source_uri", "source_member", "language", "reference", "metadata")


@dataclass(frozen=True, slots=True)
class _Table:
    """columns: what a hit has. text, seconds: SQL of what is searched, and of the length."""

    columns: tuple[str, ...]
    text: str
    seconds: str


_TABLES = {
    "transcripts": _Table(
        (*_COMMON, "segment_index", "start_ms", "end_ms", "channel", "text", "confidence", "words", "problem", "model"),
        text="text",
        seconds="((end_ms - start_ms) / 1000)",
    ),
    "dead_letters": _Table(
        (*_COMMON, "reason", "stage", "error", "seconds"),
        text="concat_ws(' ', reason, error, reference)",
        seconds="seconds",
    ),
}


@dataclass(frozen=True, slots=True)
class Found:
    """A page of hits, and how many there are on all pages, with their length.

    rows: columns of schemas.TRANSCRIPT or DEAD_LETTER, `part` (the file's name in its table) and `row` (from 0) in it.
    """

    rows: list[dict[str, Any]]
    total: int
    seconds: float


class Tables:
    """The published tables of an output. Every search sees those that are published then. Threads may share it."""

    def __init__(self, storage: Storage) -> None:
        """Raises ConfigError if there are no transcripts, or nothing says that this version has written them."""
        self._storage = storage
        if not self._parts("transcripts"):
            raise ConfigError(f"output.uri: {storage.uri}: no published transcripts; publish=true publishes them")
        if not storage.exists(plan_key(BASE)):
            raise ConfigError(f"output.uri: {storage.uri}: tables without {plan_key(BASE)}: copy the whole output")
        read_fingerprint(storage)
        self._connection = duckdb.connect(config=_OFFLINE)
        self._connection.register_filesystem(_PartFiles(storage))
        self._languages: tuple[list[str], list[str]] = ([], [])

    def find(self, query: Query) -> Found:
        """One page of what the query asks for. Raises duckdb.Error or OSError if a file cannot be read."""
        name = "dead_letters" if query.show == "dead" else "transcripts"
        table, parts = _TABLES[name], self._parts(name)
        if not parts:
            return Found([], 0, 0.0)
        conditions = [
            ("true", ()),
            *_conditions(query, table),
            *(_of_transcripts(query) if name == "transcripts" else ()),
        ]
        where = " and ".join(sql for sql, _ in conditions)
        values = [parts, *(value for _, some in conditions for value in some)]
        ((total, seconds),) = self._rows(f"select count(*), sum({table.seconds}) from {_SOURCE} where {where}", values)
        order = ", ".join((*_order(query, table, name), "filename", "file_row_number"))
        columns = ("filename", "file_row_number", *table.columns)
        rows = self._rows(
            f"select {', '.join(columns)} from {_SOURCE} where {where} order by {order} limit ? offset ?",
            [*values, PAGE, (query.page - 1) * PAGE],
        )
        hits = [dict(zip(("part", "row", *table.columns), row, strict=True)) for row in rows]
        return Found([hit | {"part": _key(hit["part"]).partition("/")[2]} for hit in hits], total, float(seconds or 0))

    def languages(self) -> list[str]:
        """The languages of the transcripts, those with most segments first; UNKNOWN for segments without one."""
        parts, (known, languages) = self._parts("transcripts"), self._languages
        if known != parts:
            counted = f"select coalesce(language, ?) from {_SOURCE} group by 1 order by count(*) desc, 1"
            languages = [language for (language,) in self._rows(counted, [UNKNOWN, parts])]
            self._languages = (parts, languages)
        return languages

    def _parts(self, table: str) -> list[str]:
        """The files of a table as DuckDB names them. A file that is written again has another name: it caches them."""
        versions = self._storage.versions(f"{table}/")
        return [
            f"{SCHEME}://{key}@{hashlib.sha256(version.encode()).hexdigest()}"
            for key, version in sorted(versions.items())
            if key.endswith(".parquet")
        ]

    def _rows(self, sql: str, values: list[Any]) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            return cursor.execute(sql, values).fetchall()


def _conditions(query: Query, table: _Table) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """SQL and its values of what both tables can be asked for."""
    if query.match == "words":
        for word in query.text.split():
            before, after = (
                "" if unicodedata.east_asian_width(end) in _WIDE else _NO_LETTER for end in (word[0], word[-1])
            )
            ends = (f"(^|{before})", word, f"($|{after})")
            yield f"contains(lower({table.text}), lower(?))", (word,)  # much faster than what is behind it
            yield f"regexp_matches(lower({table.text}), ? || regexp_escape(lower(?)) || ?)", ends
    elif query.text:
        yield f"contains(lower({table.text}), lower(?))", (query.text,)
    if query.recording:
        yield "contains(lower(recording_id), lower(?))", (query.recording,)
    if query.language == UNKNOWN:
        yield "language is null", ()
    elif query.language:
        yield "language = ?", (query.language,)
    if query.shortest is not None:
        yield f"{table.seconds} >= ?", (query.shortest,)
    if query.longest is not None:
        yield f"{table.seconds} <= ?", (query.longest,)


def _of_transcripts(query: Query) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if query.show == "damaged":
        yield "problem is not null", ()
    if query.low is not None:
        yield "confidence >= ?::float", (query.low,)
    if query.high is not None:
        yield "confidence <= ?::float", (query.high,)


def _order(query: Query, table: _Table, name: str) -> list[str]:
    by = {"longest": f"{table.seconds} desc", "shortest": table.seconds}
    if name == "transcripts":
        by |= {"unsure": "confidence", "sure": "confidence desc"}
    return [f"{by[query.order]} nulls last"] if query.order in by else []


def _key(name: str) -> str:
    return name.removeprefix(f"{SCHEME}://").rpartition("@")[0]


class _PartFiles(AbstractFileSystem):
    """The files of `Tables._parts` for DuckDB: what it asks of a file system to read Parquet."""

    protocol = SCHEME
    cachable = False

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self._storage = storage

    def open(self, path: str, *_: Any, **__: Any) -> BinaryIO:
        return self._storage.open(_key(path))

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        with self.open(path) as file:
            return {"name": path, "size": file.seek(0, 2), "type": "file"}

    def modified(self, *_: Any) -> datetime:
        return datetime.fromtimestamp(0, UTC)  # the name has the version
