"""Official corpora as splits: which tables of which languages lie below source.uri, which are asked for, their rows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

from pipeline.config import LANGUAGES, ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.access import fields, names
from pipeline.sources.access.lines import Record
from pipeline.sources.access.listing import File, list_files, list_folder, local_size

MAX_HINTS = 8  # folders that `auto` looks into for a table
DEPTH = 2  # folders below source.uri in which tables are looked for: all corpora / one corpus / one language
_BULK = ("audio", "clips", "raw_audios", "unlabelled_data")  # folders of audio alone


class Layout(NamedTuple):
    """What tells a corpus.

    table: matches "<folder>/<file>" of the table of a split; its group `split` is the name. beside: the folder that
    must lie beside it. hint: found in "/<path>" of a file, below any root, that may belong to such a corpus.
    """

    table: re.Pattern[str]
    beside: str | None
    hint: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Split:
    """One split of one language: its name ("test") and its table."""

    name: str
    table: File

    def folder(self, up: int = 1) -> str:
        """The name of the folder that the table lies in (up=2: of the folder above that), "" where there is none."""
        parts = _parts(self.table.uri)
        return parts[-1 - up] if len(parts) > up else ""

    def uri(self, name: str, up: int = 1) -> str:
        """What opens `name` in the folder of the table (up=2: in the folder above); "" is that folder itself."""
        before, path, after = _place(self.table.uri)
        return f"{before}{path.rsplit('/', up)[0]}{'/' if name else ''}{name}{after}"


class Row(NamedTuple):
    """What a row says: the recording's id, the columns of reference, language and metadata, declared seconds, and the
    path of the audio from the folder of the table, None where the row does not tell it.
    """

    recording_id: str
    columns: dict[str, Any]
    seconds: float | None = None
    audio: str | None = None


def choose_splits(source: SourceConfig, layout: Layout, what: str) -> list[Split]:
    """The tables of the one split that is asked for, of each language below source.uri, by path.

    Raises ConfigError: where there are several splits and source.split names none or another one (those there are
    named), where there is none at all, and for columns that a corpus does not let choose.
    """
    for key in ("audio_column", "id_column"):
        if getattr(source, key):
            raise ConfigError(f"source.{key}: format {what} knows its own")
    found = list(find_splits(source.uri, layout))
    there = ", ".join(sorted({split.name for split in found}))
    if not found:
        beside = f" with the folder {layout.beside} beside it" if layout.beside else ""
        raise ConfigError(f"source.uri: {source.uri}: no table of a split{beside} (format {what})")
    if source.split is not None:
        found = [split for split in found if split.name == source.split]
        if not found:
            raise ConfigError(f"source.split: {source.uri} has no {source.split!r} (it has {there})")
    elif len({split.name for split in found}) > 1:
        raise ConfigError(f"source.split: {source.uri} has several; set it to one of {there}")
    return found


def find_splits(uri: str, layout: Layout) -> Iterator[Split]:
    """Every split of every language in a folder and at most two folders down; of a file or glob, those it names.

    Folders with audio are not listed. Raises ConfigError where nothing is there or it cannot be listed.
    """
    inside = list_folder(uri)
    if inside is not None:
        yield from _below(uri, inside, layout, DEPTH)
    elif names.has_magic(uri) and not names.has_magic(names.BRACES.sub("", uri)):
        try:
            expanded = list(dict.fromkeys(names.expand_braces(uri)))
        except ValueError as err:
            raise ConfigError(f"source.uri: {uri}: {err}") from None
        for one in expanded:
            yield from find_splits(one, layout)
    else:
        for folder, files in groupby(list_files(uri), key=lambda file: _above(file.uri)):
            found = [split for file in files if (split := _split(folder, file, layout))]
            if found and _has_audio((list_folder(folder) or ([], []))[1], layout):
                yield from found


def is_corpus(uri: str, files: Iterable[File], layout: Layout) -> bool:
    """Whether there is a split at `uri`, of which `files` are the first: looked for only where one of them hints at a
    table that is there indeed, so that other archives cost a few listings at most.
    """
    looked_at: set[str] = set()
    for file in files:
        hint = layout.hint.search(f"/{file.name}")
        before, path, after = _place(file.uri)
        folder = path[: hint.start() - len(f"/{file.name}")] if hint else path
        if hint is None or folder in looked_at or (_is_glob(uri) and not _split(_above(file.uri), file, layout)):
            continue
        if len(looked_at) == MAX_HINTS:
            return False
        looked_at.add(folder)
        there = f"{before}{folder}{after}"
        if any(_below(there, list_folder(there) or ([], []), layout, 0)):
            return any(find_splits(uri, layout))
    return False


def refs_of(
    source: SourceConfig,
    split: Split,
    what: str,
    records: Iterable[Record],
    row_of: Callable[[dict[str, Any]], Row],
    needed: Sequence[Sequence[str]] = (),
) -> Iterator[RecordingRef]:
    """One ref per row. Where the row does not tell its audio, source_uri and source_member say where the row is; where
    it does and the audio is not there, on a local disk, the problem is "missing_file".

    row_of: raises BadRecording where the row cannot be used: that ref has the problem; where even its id is unknown it
    is named after the row. needed: of each group one column must be there. Raises ConfigError where that or a column
    that was asked for is not there.
    """
    drop = ("language",) if source.language in LANGUAGES else ()
    title = "/".join(_parts(split.table.uri)[-3:])
    checked = False
    for record in records:
        line, name = f"line {record.line}", f"{title}:{record.line}"
        try:
            if record.error is not None:
                raise record.error
            if not checked:
                _check_needed(split, record.columns, needed)
            row = row_of(record.columns)
            name = row.recording_id
            if not checked:
                _check_asked(source, split, row.columns)
                checked = True
            found = fields.describe(row.columns, language=source.language, text=source.text_column, drop=drop)
        except BadRecording as err:
            where = f"{split.table.uri}:{record.line}"
            detail = err.detail if err.detail.startswith(where) else f"{where}: {err.detail}"
            ref = RecordingRef(name, what, split.table.uri, line, version=split.table.version)
            yield replace(ref, problem=err.reason, problem_detail=detail)
        else:
            ref = RecordingRef(name, what, split.table.uri, line, seconds=row.seconds, **found._asdict())
            yield ref if row.audio is None else _with_audio(ref, split.uri(row.audio))


def file_stem(path: object, column: str) -> tuple[str, str]:
    """("a.1", "mp3") for "a.1.mp3"; the extension is "" where it is none of audio.

    Raises BadRecording: "bad_metadata" for no text, "unsafe_name" for a path with folders.
    """
    if not isinstance(path, str) or not path:
        raise BadRecording("bad_metadata", f"{column}: no file name")
    if "/" in path or "\\" in path or "\0" in path or path.startswith("."):
        raise BadRecording("unsafe_name", f"{column}: {path!r:.300} is no plain file name")
    return names.split_name(path) or (path, "")


def _is_glob(uri: str) -> bool:
    return names.has_magic(uri) and list_folder(uri) is None


def _below(uri: str, inside: tuple[list[File], list[str]], layout: Layout, depth: int) -> Iterator[Split]:
    files, folders = inside
    here = [split for file in files if (split := _split(uri, file, layout))]
    if here and _has_audio(folders, layout):
        yield from here
    elif depth:
        for folder in folders:
            if _last(folder) not in _BULK:
                yield from _below(folder, list_folder(folder) or ([], []), layout, depth - 1)


def _split(folder: str, file: File, layout: Layout) -> Split | None:
    name = file.name.rpartition("/")[2]
    found = layout.table.fullmatch(f"{_last(folder)}/{name}")
    return Split(found["split"], file) if found else None


def _has_audio(folders: list[str], layout: Layout) -> bool:
    return layout.beside is None or layout.beside in map(_last, folders)


def _with_audio(ref: RecordingRef, uri: str) -> RecordingRef:
    size, version = local_size(uri)
    ref = replace(ref, source_uri=uri, source_member=None, size=size, version=version)
    if not uri.startswith("/") or version:
        return ref
    return replace(ref, problem="missing_file", problem_detail=f"{uri}: in the table, but not there")


def _check_needed(split: Split, columns: dict[str, Any], needed: Sequence[Sequence[str]]) -> None:
    for group in needed:
        if not any(name in columns for name in group):
            either = " or ".join(group)
            raise ConfigError(f"source.uri: {split.table.uri}: no column {either} (it has {', '.join(columns)})")


def _check_asked(source: SourceConfig, split: Split, columns: dict[str, Any]) -> None:
    language = source.language if source.language not in LANGUAGES else None
    asked = {"text_column": source.text_column, "language": language and language.removeprefix(fields.COLUMN)}
    for key, name in asked.items():
        if name and name not in columns:
            there = ", ".join(columns)
            raise ConfigError(f"source.{key}: no column {name!r} in {split.table.uri} (it has {there})")


def _place(uri: str) -> tuple[str, str, str]:
    """A URI as what comes before the path of the file, that path, and what follows (in chains like zip://a::s3://b).

    A local path is in full, without "." and "..".
    """
    if uri.startswith("/") or "://" not in uri:
        return "", os.path.abspath(uri), ""  # noqa: PTH100
    parts = uri.split("::")
    at = next(index for index, part in enumerate(parts) if "://" in part)
    return "".join(f"{part}::" for part in parts[:at]), parts[at], "".join(f"::{part}" for part in parts[at + 1 :])


def _above(uri: str) -> str:
    before, path, after = _place(uri)
    return f"{before}{path.rpartition('/')[0]}{after}"


def _parts(uri: str) -> list[str]:
    """The names on the way to a file or folder."""
    return re.sub("^[^/]*://", "", _place(uri)[1]).strip("/").split("/")


def _last(folder: str) -> str:
    return _parts(folder)[-1]
