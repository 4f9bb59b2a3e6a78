"""Columns of typed tables (Parquet, Hugging Face datasets): which one is the audio, and what the others say per row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.config import LANGUAGES, ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.access import fields, remote

AUDIO_NAMES = ("audio", "speech", "wav", "flac", "mp3", "bytes", "content")


def audio_column(schema: pa.Schema, source: SourceConfig, where: str) -> str:
    """Return the column of encoded audio.

    That is source.audio_column; without that setting the only column of bytes, or one of AUDIO_NAMES among several.
    Raises ConfigError, which lists the columns, if this column or another that the settings name does not exist or has
    another type.
    """
    existing = ", ".join(schema.names)
    wanted = _wanted_columns(source)
    for key, name in (*wanted.items(), ("audio_column", source.audio_column)):
        if name and name not in schema.names:
            raise ConfigError(f"source.{key}: no column {name!r} in {where} (it has {existing})")
    for key, name in wanted.items():
        kind = schema.field(name).type
        if not (_is_plain(kind) or _is_binary(kind)):
            raise ConfigError(f"source.{key}: {name!r} of {where} is {kind}, not text")
    candidates = [name for name in schema.names if _is_audio(schema.field(name).type)]
    if source.audio_column:
        if source.audio_column not in candidates:
            kind = schema.field(source.audio_column).type
            raise ConfigError(f"source.audio_column: {source.audio_column!r} of {where} is {kind}, not encoded audio")
        return source.audio_column
    named = [name for name in AUDIO_NAMES if name in candidates]
    if len(candidates) != 1 and not named:
        raise ConfigError(f"source.audio_column: which column of {where} is the audio? (it has {existing})")
    return named[0] if named else candidates[0]


def plain_columns(schema: pa.Schema, source: SourceConfig) -> list[str]:
    """Return the columns of small values (text, numbers, times): references, languages, ids and metadata.

    Columns that the settings name are among them even if they are bytes: older writers store text so.
    """
    wanted = _wanted_columns(source).values()
    return [name for name in schema.names if _is_plain(schema.field(name).type) or name in wanted]


def reject_columns(source: SourceConfig, format_name: str) -> None:
    """Raise ConfigError if the settings name a column: this format has none."""
    for key in ("audio_column", "id_column", "text_column"):
        if getattr(source, key):
            raise ConfigError(f"source.{key}: format {format_name} has no columns")
    if source.language and source.language not in LANGUAGES:
        raise ConfigError(f"source.language: {source.language}: format {format_name} has no columns")


def rows_of(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any] | BadRecording]:
    """Yield each row as values by column, bytes decoded as UTF-8; or why it cannot be read ("bad_metadata")."""
    try:
        rows: list[dict[str, Any] | None] = table.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):  # a value is bad: text not in UTF-8, or the year 300,000
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


def _wanted_columns(source: SourceConfig) -> dict[str, str]:
    """Return the columns of text that the settings name, by the key of the setting."""
    wanted = {"id_column": source.id_column, "text_column": source.text_column}
    if source.language and source.language.startswith(fields.COLUMN):
        wanted["language"] = source.language.removeprefix(fields.COLUMN)
    return {key: name for key, name in wanted.items() if name}


def class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Return, by column, the names of the classes whose numbers it has. `datasets` writes them into the schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        labels = {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: list(map(str, classes)) for name, classes in labels.items() if isinstance(classes, list)}


def with_labels(row: dict[str, Any], labels: Mapping[str, list[str]]) -> dict[str, Any]:
    """Replace the numbers of classes by their names. A number without a name, such as -1, becomes None."""
    for name, classes in labels.items():
        if isinstance(value := row.get(name), int):
            row[name] = classes[value] if 0 <= value < len(classes) else None
    return row


def with_row(ref: RecordingRef, row: Mapping[str, Any] | BadRecording, source: SourceConfig) -> RecordingRef:
    """Return `ref` with what its row says: the id in source.id_column, language, reference and metadata.

    If the row cannot be used, the ref has a problem instead.
    """
    try:
        if isinstance(row, BadRecording):
            raise row
        if name := source.id_column:
            recording_id = fields.to_text(row[name], name)
            if not recording_id:
                raise BadRecording("bad_metadata", f"{name}: the id is empty")
            ref = replace(ref, recording_id=recording_id)
        drop = [source.id_column] if source.id_column else []
        described = fields.describe(row, language=source.language, text=source.text_column, drop=drop)
        return replace(ref, **described._asdict())
    except BadRecording as err:
        return replace(ref, problem=err.reason, problem_detail=f"{ref.source_uri}: {err.detail}")


def audio_bytes(cell: Any, where: str) -> bytes | BinaryIO:
    """Return the encoded audio of one cell.

    cell: bytes, or a struct of bytes and path. Without bytes the file at the path is read. where: the file of the
    table; a relative path starts in its folder. Raises BadRecording("missing_file") if the cell is empty, and whatever
    `remote.read_audio` raises.
    """
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if data is None and path:
        return remote.read_audio(remote.relative_to(where, path))
    if data is None:
        raise BadRecording("missing_file", f"{where}: the row has neither bytes nor a path")
    if len(data) > remote.MAX_RECORDING_BYTES:
        raise BadRecording("too_large", f"{where}: {len(data):,} bytes; the limit is {remote.MAX_RECORDING_BYTES:,}")
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
