"""Texts that any recogniser wrote, as outcomes: CSV, TSV, JSON lines, NeMo manifests with pred_text, Whisper's JSON.

A row has a hypothesis (HYPOTHESIS_NAMES) and may have its reference, language, duration, speaker and anything else.
Where references are in a file of their own, recordings have the ids of that file, and one without a hypothesis is
missing.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline.config import PATH, ConfigError, public
from pipeline.evaluation.rows import Outcome, snr_of, speaker_of
from pipeline.evaluation.settings import UNKNOWN, SetConfig
from pipeline.schemas import BadRecording
from pipeline.sources.access import fields, names, remote
from pipeline.sources.access.languages import known_language
from pipeline.sources.access.lines import Row, kind_of, read_manifest
from pipeline.sources.access.listing import File, list_files
from pipeline.sources.manifest import span_of

log = logging.getLogger(__name__)

HYPOTHESIS_NAMES = ("hyp", "hypothesis", "pred_text", "prediction", "predicted_text", "pred")
REFERENCE_NAMES = ("ref", *fields.TEXT_NAMES)


def foreign_outcomes(name: str, one: SetConfig) -> list[Outcome]:
    """The recordings of a set whose hypotheses are in files. name: of the set, for messages.

    Raises ConfigError, one line that names file and line: nothing is there, a line cannot be read, no column has the
    hypotheses, an id is there twice.
    """
    assert one.hypotheses
    texts = HYPOTHESIS_NAMES if one.references is None else (*HYPOTHESIS_NAMES, *REFERENCE_NAMES)
    rows = _by_id(f"sets.{name}.hypotheses", one.hypotheses, texts)
    if one.references is None:
        return [_outcome(one, key, row, row, texts) for key, row in rows.items()]
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


def _outcome(
    one: SetConfig, key: str, row: Mapping[str, Any], answer: Mapping[str, Any] | None, texts: Collection[str]
) -> Outcome:
    """row: with the reference and what else is known. answer: with the hypothesis; None: there is none."""
    column = next((name for name in texts if name in (answer or ())), None)
    reference = next((name for name in REFERENCE_NAMES if name in row), "ref")
    try:
        described = fields.describe(row, language=PATH, text=reference)
        hypothesis = fields.to_text(answer[column], column) if answer and column else None
        seconds = fields.to_seconds(row.get("duration"), "duration")
    except BadRecording as err:
        raise ConfigError(f"{public(one.references or one.hypotheses or '')}: {key}: {err.detail}") from None
    languages = [one.language, *(each.get(n) for each in (row, answer or {}) for n in fields.LANGUAGE_NAMES)]
    return Outcome(
        recording_id=key,
        language=next(filter(None, map(_language, languages)), UNKNOWN),
        status="missing" if column is None else "transcribed",
        reference=described.reference,
        hypothesis=hypothesis or "",
        speaker=speaker_of(described.metadata),
        snr_db=snr_of(described.metadata),
        metadata=described.metadata,
        seconds=seconds,
        audio=next((str(row[name]) for name in fields.AUDIO_NAMES if isinstance(row.get(name), str)), ""),
        model=PurePosixPath(public(one.hypotheses or "")).name,
    )


def _by_id(setting: str, uri: str, texts: Collection[str]) -> dict[str, dict[str, Any]]:
    """The rows of all files by the id of their recording. texts: columns of which one must be there."""
    rows: dict[str, dict[str, Any]] = {}
    columns: dict[str, None] = {}
    try:
        for file in list_files(uri):
            if not (file.named or kind_of(file.name)):
                continue
            for row in _rows(file):
                if row.error is not None:
                    raise row.error
                where = f"{file.uri}:{row.line}"
                key = _id(row, where)
                if key in rows:
                    raise BadRecording("bad_metadata", f"{where}: {key} is there twice")
                rows[key] = row.columns
                columns.update(dict.fromkeys(row.columns))
    except BadRecording as err:
        raise ConfigError(f"{setting}: {err.detail}") from None
    except ConfigError as err:
        raise ConfigError(f"{setting}: {str(err).removeprefix('source.uri: ')}") from None
    if not any(name in columns for name in texts):
        there = ", ".join(columns) or "no rows"
        raise ConfigError(f"{setting}: {public(uri)}: no column with the texts, as {', '.join(texts)} ({there})")
    return rows


def _rows(file: File) -> Iterator[Row]:
    """The rows of one file. Whisper writes one JSON object for each audio file, which has its name."""
    if kind_of(file.name) != "json":
        return read_manifest(file)
    with remote.open_stream(file.uri) as stream:
        data = stream.read()
    try:
        content = json.loads(data)
    except ValueError:  # JSON lines, as NeMo names them
        return read_manifest(file)
    if isinstance(content, dict) and "segments" in content:
        text = content.get("text") or "".join(segment.get("text", "") for segment in content["segments"])
        row = {"id": file.name.rpartition(".")[0], "hyp": text.strip(), "language": content.get("language")}
        return iter([Row(1, row)])
    if isinstance(content, list) and all(isinstance(one, dict) for one in content):
        return iter([Row(number, one) for number, one in enumerate(content, 1)])
    return read_manifest(file)


def _id(row: Row, where: str) -> str:
    """The id column, else the path of the audio with its section as in a manifest, else the number of the line."""
    try:
        for name in fields.ID_NAMES:
            if named := fields.to_text(row.columns.get(name), name):
                return named
        path = next((row.columns[n] for n in fields.AUDIO_NAMES if isinstance(row.columns.get(n), str)), None)
        return f"{public(path.strip())}{span_of(row.columns).suffix}" if path else str(row.line)
    except BadRecording as err:
        raise BadRecording(err.reason, f"{where}: {err.detail}") from None


def _stem(key: str) -> str:
    """The id without the extension of an audio file."""
    split = names.split_name(key)
    return split[0] if split else key


def _language(value: Any) -> str | None:
    """The code of a language; one that no model here knows stays as it is written."""
    try:
        return known_language(value)
    except BadRecording:
        return str(value)
