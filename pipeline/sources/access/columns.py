"""Columns of typed tables (Parquet, Hugging Face datasets): which is the audio, and what the others say per row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.access import fields, remote

AUDIO_NAMES = ("audio", "speech", "wav", "flac", "mp3", "bytes", "content")


def audio_column(schema: pa.Schema, source: SourceConfig, where: str) -> str:
    """The column of encoded audio: source.audio_column, else the only one of its type, else one of AUDIO_NAMES.

    Raises ConfigError, naming the columns there are, where this or another column asked for is not to be found.
    """
    there = ", ".join(schema.names)
    asked = _asked(source)
    for key, name in (*asked.items(), ("audio_column", source.audio_column)):
        if name and name not in schema.names:
            raise ConfigError(f"source.{key}: no column {name!r} in {where} (it has {there})")
    for key, name in asked.items():
        kind = schema.field(name).type
        if not (_is_plain(kind) or _is_binary(kind)):
            raise ConfigError(f"source.{key}: {name!r} of {where} is {kind}, no text")
    candidates = [name for name in schema.names if _is_audio(schema.field(name).type)]
    if source.audio_column:
        if source.audio_column not in candidates:
            kind = schema.field(source.audio_column).type
            raise ConfigError(f"source.audio_column: {source.audio_column!r} of {where} is {kind}, no encoded audio")
        return source.audio_column
    named = [name for name in AUDIO_NAMES if name in candidates]
    if len(candidates) != 1 and not named:
        raise ConfigError(f"source.audio_column: which column of {where} is the audio? (it has {there})")
    return named[0] if named else candidates[0]


def plain_columns(schema: pa.Schema, source: SourceConfig) -> list[str]:
    """Columns that are small values (text, numbers, times): references, languages, ids and metadata.

    And those that were asked for as text and are written as bytes, as older writers do.
    """
    asked = _asked(source).values()
    return [name for name in schema.names if _is_plain(schema.field(name).type) or name in asked]


def rows_of(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any] | BadRecording]:
    """Each row by column, bytes as the text they are in UTF-8; or why its values are none (bad_metadata)."""
    try:
        rows: list[dict[str, Any] | None] = table.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):  # one value of them: text that is no UTF-8, a year 300,000
        rows = [None] * table.num_rows
    for index, row in enumerate(rows):
        try:
            values = row or {name: _value(table, name, index) for name in table.schema.names}
            yield {n: fields.from_bytes(v, n) if isinstance(v, bytes) else v for n, v in values.items()}
        except BadRecording as err:
            yield err


def _value(table: pa.Table | pa.RecordBatch, name: str, index: int) -> Any:
    try:
        return table.column(name)[index].as_py()
    except (pa.ArrowException, ValueError, OverflowError) as err:
        raise BadRecording("bad_metadata", f"{name}: {remote.one_line(err)}") from None


def _asked(source: SourceConfig) -> dict[str, str]:
    """Columns of text that the settings name, by their keys."""
    asked = {"id_column": source.id_column, "text_column": source.text_column}
    if source.language and source.language.startswith(fields.COLUMN):
        asked["language"] = source.language.removeprefix(fields.COLUMN)
    return {key: name for key, name in asked.items() if name}


def class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """The names that stand for the numbers of a column, where `datasets` has written them into the schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: list(map(str, names)) for name, names in found.items() if isinstance(names, list)}


def with_labels(row: dict[str, Any], labels: Mapping[str, list[str]]) -> dict[str, Any]:
    """The row with names for the numbers of its labels; a number without a name (-1) is None."""
    for name, names in labels.items():
        if isinstance(value := row.get(name), int):
            row[name] = names[value] if 0 <= value < len(names) else None
    return row


def with_row(ref: RecordingRef, row: Mapping[str, Any] | BadRecording, source: SourceConfig) -> RecordingRef:
    """The ref with what the row says: its id in source.id_column, language, reference and metadata; or its problem."""
    try:
        if isinstance(row, BadRecording):
            raise row
        if name := source.id_column:
            recording_id = fields.to_text(row[name], name)
            if not recording_id:
                raise BadRecording("bad_metadata", f"{name}: no id")
            ref = replace(ref, recording_id=recording_id)
        drop = [source.id_column] if source.id_column else []
        found = fields.describe(row, language=source.language, text=source.text_column, drop=drop)
        return replace(ref, **found._asdict())
    except BadRecording as err:
        return replace(ref, problem=err.reason, problem_detail=f"{ref.source_uri}: {err.detail}")


def audio_bytes(cell: Any, where: str) -> bytes | BinaryIO:
    """Encoded audio out of a cell: bytes, {"bytes", "path"}, or the file at the path (from the folder of `where`).

    Raises BadRecording("missing_file") for an empty cell, and as `remote.read_audio`.
    """
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if data is None and path:
        return remote.read_audio(remote.relative_to(where, path))
    if data is None:
        raise BadRecording("missing_file", f"{where}: neither bytes nor a path in the row")
    if len(data) > remote.MAX_RECORDING_BYTES:
        raise BadRecording("too_large", f"{where}: {len(data):,} bytes")
    return bytes(data)


def _is_audio(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return not (pa.types.is_nested(kind) or _is_binary(kind) or pa.types.is_fixed_size_binary(kind))
