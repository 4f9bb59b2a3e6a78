"""Texts that any recogniser wrote, as outcomes: CSV, TSV, JSON lines, NeMo manifests with pred_text, Whisper's JSON.

A row has a hypothesis (HYPOTHESIS_NAMES) and may have its reference, language, duration, speaker and anything else.
Where references are in a file of their own, recordings have the ids of that file, and one without a hypothesis is
missing.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pipeline.config import PATH, ConfigError, public
from pipeline.evaluation.rows import Outcome, snr_of, speaker_of
from pipeline.evaluation.settings import UNKNOWN, SetConfig
from pipeline.schemas import BadRecording
from pipeline.sources.access import fields, names, remote
from pipeline.sources.access.languages import any_language
from pipeline.sources.access.lines import Row, kind_of, read_manifest
from pipeline.sources.access.listing import File, list_files
from pipeline.sources.manifest import span_of

log = logging.getLogger(__name__)

HYPOTHESIS_NAMES = ("hyp", "hypothesis", "pred_text", "prediction", "predicted_text", "pred")
REFERENCE_NAMES = ("ref", *fields.TEXT_NAMES)
_TEXTS = (*HYPOTHESIS_NAMES, *REFERENCE_NAMES)


class _Said(NamedTuple):
    """What a row says of a recording. where: its file and line. audio: address of the audio, "" if it has none."""

    columns: dict[str, Any]
    where: str
    audio: str


def foreign_outcomes(name: str, one: SetConfig) -> list[Outcome]:
    """The recordings of a set whose hypotheses are in files. name: of the set, for messages.

    Raises ConfigError, one line that names file and line: nothing is there, a line cannot be read, no column has the
    hypotheses, an id is there twice.
    """
    assert one.hypotheses
    setting = f"sets.{name}.hypotheses"
    if one.references is None:
        rows = _by_id(setting, one.hypotheses, HYPOTHESIS_NAMES)
        return [_outcome(one, key, row, row, HYPOTHESIS_NAMES) for key, row in rows.items()]
    rows = _by_id(setting, one.hypotheses, _TEXTS)
    has_both = any(name in row.columns for row in rows.values() for name in HYPOTHESIS_NAMES)
    texts = HYPOTHESIS_NAMES if has_both else REFERENCE_NAMES
    references = _by_id(f"sets.{name}.references", one.references, REFERENCE_NAMES)
    found = _matched(rows, references)
    if others := len(rows) - len(found):
        log.warning("set %s: %d hypotheses left out: their ids are not in %s", name, others, public(one.references))
    return [_outcome(one, key, row, rows.get(found.get(key, "")), texts) for key, row in references.items()]


def _matched(rows: Collection[str], references: Collection[str]) -> dict[str, str]:
    """The id of the hypothesis for that of the reference: equal, or without extensions, or also without folders."""
    found: dict[str, str] = {}
    for form in (str, _stem, lambda key: _stem(key).rpartition("/")[2]):
        names_of, left = _unique(form, rows), set(rows) - set(found.values())
        for short, key in _unique(form, references).items():
            if key not in found and names_of.get(short) in left:
                found[key] = names_of[short]
    return found


def _unique(form: Callable[[str], str], keys: Collection[str]) -> dict[str, str]:
    """The ids by their short form, those left out that share it."""
    often = Counter(map(form, keys))
    return {form(key): key for key in keys if often[form(key)] == 1}


def _outcome(one: SetConfig, key: str, row: _Said, answer: _Said | None, texts: Collection[str]) -> Outcome:
    """row: with the reference and what else is known. answer: with the hypothesis; None: there is none."""
    hypothesis, status = "", "missing"
    if answer and (column := fields.first(answer.columns, texts)) in answer.columns:
        with _at(answer.where):
            hypothesis, status = fields.to_text(answer.columns[column], column) or "", "transcribed"
    with _at(row.where):
        described = fields.describe(row.columns, language=PATH, text=fields.first(row.columns, REFERENCE_NAMES))
        seconds = fields.to_seconds(row.columns.get("duration"), "duration")
    return Outcome(
        recording_id=key,
        language=one.language or _language(row) or (answer and _language(answer)) or UNKNOWN,
        status=status,
        reference=described.reference,
        hypothesis=hypothesis,
        speaker=speaker_of(described.metadata),
        snr_db=snr_of(described.metadata),
        metadata=described.metadata,
        seconds=seconds,
        audio=row.audio,
        model=PurePosixPath(public(one.hypotheses or "")).name,
    )


def _by_id(setting: str, uri: str, texts: Collection[str]) -> dict[str, _Said]:
    """The rows of all files by the id of their recording. texts: columns of which one must be there."""
    rows: dict[str, _Said] = {}
    columns: dict[str, None] = {}
    try:
        for file in _files(uri):
            for number, row in enumerate(_rows(file), 1):
                if row.error is not None:
                    raise row.error
                where = public(f"{file.uri}:{row.line}")
                path = _audio_path(row.columns)
                with _at(where):
                    key = _id(row.columns, path) or (str(number) if file.named else f"{file.name}:{number}")
                if key in rows:
                    raise ConfigError(f"{where}: {key} is there twice")
                rows[key] = _Said(row.columns, where, public(remote.relative_to(file.uri, path)) if path else "")
                columns.update(dict.fromkeys(row.columns))
    except BadRecording as err:
        raise ConfigError(f"{setting}: {err.detail}") from None
    except ConfigError as err:
        raise ConfigError(f"{setting}: {str(err).removeprefix('source.uri: ')}") from None
    if not any(name in columns for name in texts):
        there = ", ".join(columns) or "no rows"
        raise ConfigError(f"{setting}: {public(uri)}: no column with the texts, as {', '.join(texts)} ({there})")
    return rows


def _files(uri: str) -> list[File]:
    """The files with rows. Whisper writes the same texts as a.json and a.tsv: the second is left out."""
    files = list(list_files(uri))
    there = {file.name for file in files}
    return [
        file
        for file in files
        if file.named or (kind_of(file.name) and not (file.name.endswith(".tsv") and f"{file.name[:-4]}.json" in there))
    ]


def _rows(file: File) -> Iterator[Row]:
    """The rows of one file. Whisper writes one JSON object for each audio file, which has its name."""
    if kind_of(file.name) != "json":
        return read_manifest(file)
    with remote.open_stream(file.uri) as stream:
        data = stream.read()
    try:
        content = fields.any_json(data, file.uri)
    except BadRecording:  # JSON lines, as NeMo names them
        return read_manifest(file)
    if isinstance(content, dict) and isinstance(content.get("segments"), list):
        with _at(public(f"{file.uri}:1")):
            text = content.get("text") or _joined(content["segments"])
            row = {"id": file.name.rpartition(".")[0], "hyp": (fields.to_text(text, "text") or "").strip()}
        return iter([Row(1, row | {"language": content.get("language")})])
    if isinstance(content, list) and all(isinstance(one, dict) for one in content):
        return iter([Row(number, one) for number, one in enumerate(content, 1)])
    return read_manifest(file)


def _joined(segments: list[Any]) -> str:
    """The text of Whisper's segments. Raises BadRecording("bad_metadata") where one has none."""
    texts: list[Any] = [one.get("text") if isinstance(one, dict) else None for one in segments]
    if not all(isinstance(text, str) for text in texts):
        raise BadRecording("bad_metadata", "segments: expected objects with a text")
    return "".join(texts)


def _audio_path(columns: dict[str, Any]) -> str:
    """The path of the audio as it is written, "" where there is none. A text is not one: "play it.mp3"."""
    try:
        return fields.audio_path({name: value for name, value in columns.items() if name not in _TEXTS})[1].strip()
    except BadRecording:
        return ""


def _id(columns: dict[str, Any], path: str) -> str | None:
    """The id column, else the path of the audio with its section as in a manifest; None where there is neither."""
    name = fields.first(columns, fields.ID_NAMES)
    if named := fields.to_text(columns.get(name), name):
        return named
    return f"{public(path)}{span_of(columns).suffix}" if path else None


def _stem(key: str) -> str:
    """The id without the extension of an audio file."""
    split = names.split_name(key)
    return split[0] if split else key


def _language(said: _Said) -> str | None:
    """The code of the language that the row names, also of one that no model here knows."""
    name = fields.first(said.columns, fields.LANGUAGE_NAMES)
    with _at(f"{said.where}: {name}"):
        return any_language(said.columns.get(name))


@contextlib.contextmanager
def _at(where: str) -> Iterator[None]:
    """A value that cannot be used is an error that names its place."""
    try:
        yield
    except BadRecording as err:
        raise ConfigError(f"{where}: {err.detail}") from None
