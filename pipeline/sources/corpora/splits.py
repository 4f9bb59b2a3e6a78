"""Corpora as splits: the tables of which languages are below source.uri, which one is wanted, and what its rows say."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

from pipeline.config import COLUMN, LANGUAGES, ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.access import fields, names
from pipeline.sources.access.lines import Row
from pipeline.sources.access.listing import File, list_files, list_folder, local_size

MAX_HINTS = 8  # folders that source.format=auto searches for a table
DEPTH = 2  # levels of folders below source.uri that are searched: all corpora, one corpus, one language
_AUDIO_FOLDERS = ("audio", "clips", "raw_audios", "unlabelled_data")  # they contain no tables


class Layout(NamedTuple):
    """How the files of a corpus are arranged.

    table: matches "<folder>/<file>" of the table of a split; its group `split` is the name of the split. beside: a
    folder that must be beside the table. hint: occurs in "/<path>" of a file that may belong to such a corpus.
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
        """Return the name of the table's folder (up=2: of the folder above it), "" if there is none."""
        parts = _parts(self.table.uri)
        return parts[-1 - up] if len(parts) > up else ""

    def uri(self, name: str, up: int = 1) -> str:
        """Return the URI of `name` in the table's folder (up=2: in the folder above it); "" is that folder itself."""
        before, path, after = _place(self.table.uri)
        return f"{before}{path.rsplit('/', up)[0]}{'/' if name else ''}{name}{after}"


class Utterance(NamedTuple):
    """What one row of a corpus says.

    columns: reference, language and metadata. seconds: None if unknown. audio: its path from the folder of the table,
    None if the row does not say it.
    """

    recording_id: str
    columns: dict[str, Any]
    seconds: float | None = None
    audio: str | None = None


def choose_splits(source: SourceConfig, layout: Layout, what: str) -> list[Split]:
    """Return the wanted split of each language below source.uri, in order of paths. what: the name of the format.

    Raises ConfigError, which lists the splits, if there are several and source.split is not one of them; if there is no
    split; and if the settings name a column that is fixed in a corpus.
    """
    for key in ("audio_column", "id_column"):
        if getattr(source, key):
            raise ConfigError(f"source.{key}: format {what} has a fixed column for it")
    splits = list(find_splits(source.uri, layout))
    existing = ", ".join(sorted({split.name for split in splits}))
    if not splits:
        beside = f" with the folder {layout.beside} beside it" if layout.beside else ""
        raise ConfigError(f"source.uri: {source.uri}: no table of a split{beside} (format {what})")
    if source.split is not None:
        splits = [split for split in splits if split.name == source.split]
        if not splits:
            raise ConfigError(f"source.split: {source.uri} has no {source.split!r} (it has {existing})")
    elif len({split.name for split in splits}) > 1:
        raise ConfigError(f"source.split: {source.uri} has several; set it to one of {existing}")
    return splits


def find_splits(uri: str, layout: Layout) -> Iterator[Split]:
    """Yield every split of every language in a folder and up to two levels below it, or that a file or glob names.

    Folders of audio are not listed. Raises ConfigError if nothing is there, or if it cannot be listed.
    """
    content = list_folder(uri)
    if content is not None:
        yield from _below(uri, content, layout, DEPTH)
    elif names.has_magic(uri) and not names.has_magic(names.BRACES.sub("", uri)):
        try:
            expanded = list(dict.fromkeys(names.expand_braces(uri)))
        except ValueError as err:
            raise ConfigError(f"source.uri: {uri}: {err}") from None
        for place in expanded:
            yield from find_splits(place, layout)
    else:
        for folder, files in groupby(list_files(uri), key=lambda file: _above(file.uri)):
            splits = [split for file in files if (split := _split(folder, file, layout))]
            if splits and _has_audio((list_folder(folder) or ([], []))[1], layout):
                yield from splits


def is_corpus(uri: str, files: Iterable[File], layout: Layout) -> bool:
    """Return whether there is a split at `uri`. files: the first files there.

    It is searched only if one of them hints at a table, and that table exists: for other archives this takes a few
    listings at most.
    """
    searched: set[str] = set()
    for file in files:
        hint = layout.hint.search(f"/{file.name}")
        before, path, after = _place(file.uri)
        folder = path[: hint.start() - len(f"/{file.name}")] if hint else path
        if hint is None or folder in searched or (_is_glob(uri) and not _split(_above(file.uri), file, layout)):
            continue
        if len(searched) == MAX_HINTS:
            return False
        searched.add(folder)
        place = f"{before}{folder}{after}"
        if any(_below(place, list_folder(place) or ([], []), layout, 0)):
            return any(find_splits(uri, layout))
    return False


def refs_of(
    source: SourceConfig,
    split: Split,
    what: str,
    rows: Iterable[Row],
    utterance_of: Callable[[dict[str, Any]], Utterance],
    needed: Sequence[Sequence[str]] = (),
) -> Iterator[RecordingRef]:
    """Yield one ref per row.

    If the row does not say where its audio is, source_uri and source_member say where the row is. If it does, and that
    file is not on the local disk, the problem is "missing_file".

    what: the name of the format. utterance_of: reads the columns of a row. If it raises BadRecording, the ref has that
    problem; if even the id is unknown, the id is the place of the row. needed: of each group, one column must exist.
    Raises ConfigError if none does, or if a column that the settings name does not exist.
    """
    drop = ("language",) if source.language in LANGUAGES else ()
    title = "/".join(_parts(split.table.uri)[-3:])
    checked = False
    for row in rows:
        line, name = f"line {row.line}", f"{title}:{row.line}"
        try:
            if row.error is not None:
                raise row.error
            if not checked:
                _check_needed(split, row.columns, needed)
            utterance = utterance_of(row.columns)
            name = utterance.recording_id
            if not checked:
                _check_wanted(source, split, utterance.columns)
                checked = True
            described = fields.describe(utterance.columns, language=source.language, text=source.text_column, drop=drop)
        except BadRecording as err:
            where = f"{split.table.uri}:{row.line}"
            detail = err.detail if err.detail.startswith(where) else f"{where}: {err.detail}"
            ref = RecordingRef(name, what, split.table.uri, line, version=split.table.version)
            yield replace(ref, problem=err.reason, problem_detail=detail, **err.described)
        else:
            ref = RecordingRef(name, what, split.table.uri, line, seconds=utterance.seconds, **described._asdict())
            yield ref if utterance.audio is None else _with_audio(ref, split.uri(utterance.audio))


def file_stem(path: object, column: str) -> tuple[str, str]:
    """Split a file name: ("a.1", "mp3") for "a.1.mp3". The extension is "" if it is not one of audio.

    Raises BadRecording: "bad_metadata" if it is not text, "unsafe_name" if it has folders.
    """
    if not isinstance(path, str) or not path:
        raise BadRecording("bad_metadata", f"{column}: there is no file name")
    if "/" in path or "\\" in path or "\0" in path or path.startswith("."):
        raise BadRecording("unsafe_name", f"{column}: {path!r:.300} is not a plain file name")
    return names.split_name(path) or (path, "")


def _is_glob(uri: str) -> bool:
    return names.has_magic(uri) and list_folder(uri) is None


def _below(uri: str, content: tuple[list[File], list[str]], layout: Layout, depth: int) -> Iterator[Split]:
    """Yield the splits in a folder with this content; if it has none, those in its folders, `depth` levels down."""
    files, folders = content
    splits = [split for file in files if (split := _split(uri, file, layout))]
    if splits and _has_audio(folders, layout):
        yield from splits
    elif depth:
        for folder in folders:
            if _last(folder) not in _AUDIO_FOLDERS:
                yield from _below(folder, list_folder(folder) or ([], []), layout, depth - 1)


def _split(folder: str, file: File, layout: Layout) -> Split | None:
    """Return the split whose table this file is, None if it is not a table."""
    name = file.name.rpartition("/")[2]
    match = layout.table.fullmatch(f"{_last(folder)}/{name}")
    return Split(match["split"], file) if match else None


def _has_audio(folders: list[str], layout: Layout) -> bool:
    return layout.beside is None or layout.beside in map(_last, folders)


def _with_audio(ref: RecordingRef, uri: str) -> RecordingRef:
    size, version = local_size(uri)
    ref = replace(ref, source_uri=uri, source_member=None, size=size, version=version)
    if not uri.startswith("/") or version:
        return ref
    return replace(ref, problem="missing_file", problem_detail=f"{uri}: the table names it, but it does not exist")


def _check_needed(split: Split, columns: dict[str, Any], needed: Sequence[Sequence[str]]) -> None:
    for group in needed:
        if not any(name in columns for name in group):
            either = " or ".join(group)
            raise ConfigError(f"source.uri: {split.table.uri}: no column {either} (it has {', '.join(columns)})")


def _check_wanted(source: SourceConfig, split: Split, columns: dict[str, Any]) -> None:
    language = source.language if source.language and source.language.startswith(COLUMN) else None
    wanted = {"text_column": source.text_column, "language": language and language.removeprefix(COLUMN)}
    for key, name in wanted.items():
        if name and name not in columns:
            existing = ", ".join(columns)
            raise ConfigError(f"source.{key}: no column {name!r} in {split.table.uri} (it has {existing})")


def _place(uri: str) -> tuple[str, str, str]:
    """Split a URI into what comes before the path of the file, that path, and what follows it.

    Only a chain such as zip://a::s3://b has something before or after. A local path becomes absolute.
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
    """Return the names of the folders on the way to a file or folder, and its own."""
    return re.sub("^[^/]*://", "", _place(uri)[1]).strip("/").split("/")


def _last(folder: str) -> str:
    return _parts(folder)[-1]
