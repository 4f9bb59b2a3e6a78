"""Columns of typed tables (Parquet, Hugging Face datasets): which one is the audio, and what the others say per row."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import COLUMN, ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.access import fields, remote, trust
from pipeline.sources.access.ids import IdSet
from pipeline.sources.access.listing import Planned

AUDIO_NAMES = ("audio", "speech", "wav", "flac", "mp3", "bytes", "content", "array")
SAMPLES_NAMES = ("array", "audio", "speech", "waveform", "samples", "wav", "audio_array")  # lists of decoded samples
RATE_NAMES = ("sampling_rate", "sample_rate", "sr")

log = logging.getLogger(__name__)


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
    if not candidates:  # decoded samples
        candidates = [name for name in schema.names if _is_samples(schema.field(name))]
    if source.audio_column:
        if source.audio_column not in candidates and not _is_list(schema.field(source.audio_column).type):
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


def reject_columns(source: SourceConfig, format_name: str, *keys: str) -> None:
    """Raise ConfigError if a setting of `keys` names a column: this format has none for it."""
    for key in keys:
        value = getattr(source, key)
        if value and (key != "language" or value.startswith(COLUMN)):
            raise ConfigError(f"source.{key}: {value}: format {format_name} has no columns for it")


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
    if source.language and source.language.startswith(COLUMN):
        wanted["language"] = source.language.removeprefix(COLUMN)
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


class Rows:
    """Turns rows of a table into refs. The id is that of source.id_column, or of a column of text that is called so.

    An id that was found by its name is used once: a later row with the same one keeps the id of its place, and the id
    is metadata. `repeated` counts such rows. Memory: at most 60 bytes for each id that was found.
    planned: of an earlier plan; an id that it has in another object counts as used.
    """

    def __init__(self, source: SourceConfig, planned: Planned | None = None) -> None:
        self.source = source
        self.planned = planned
        self.repeated = 0
        self._ids = IdSet()

    def ref(self, ref: RecordingRef, row: Mapping[str, Any] | BadRecording) -> RecordingRef:
        """Return `ref` with what its row says: id, language, reference and metadata.

        If the row cannot be used, the ref has a problem instead, and still what could be read.
        """
        drop: list[str] = []
        try:
            if isinstance(row, BadRecording):
                raise row
            ref, drop = self._with_id(ref, row)
            described = fields.describe(row, language=self.source.language, text=self.source.text_column, drop=drop)
            return replace(ref, **described._asdict())
        except BadRecording as err:
            return replace(ref, problem=err.reason, problem_detail=f"{ref.source_uri}: {err.detail}", **err.described)

    def say_repeated(self) -> None:
        """Write to the log how many rows have an id that an earlier row has, if any. Call it after the last row."""
        if self.repeated:
            text = "%s: %d rows have the same id as an earlier row; theirs is their place, and the id is metadata"
            log.warning(text, self.source.uri, self.repeated)

    def _with_id(self, ref: RecordingRef, row: Mapping[str, Any]) -> tuple[RecordingRef, list[str]]:
        """Return the ref with the id of its row, and the columns that need not be in the metadata."""
        if name := self.source.id_column:
            recording_id = fields.to_text(row[name], name)
            if not recording_id:
                raise BadRecording("bad_metadata", f"{name}: the id is empty")
            return replace(ref, recording_id=recording_id), [name]
        name = next((name for name in fields.ID_NAMES if isinstance(row.get(name), str) and row[name].strip()), None)
        if name is None:
            return ref, []
        is_used = self.planned is not None and self.planned.has_elsewhere(row[name], ref.source_uri)
        if is_used or not self._ids.add(row[name]):
            self.repeated += 1
            return ref, []
        return replace(ref, recording_id=fields.storable(row[name], name)), [name]


def has_path(kind: pa.DataType) -> bool:
    """Return whether the cells of an audio column have a path besides the audio."""
    return pa.types.is_struct(kind) and kind.get_field_index("path") >= 0


def only_paths(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the cells of an audio column, which have paths, without the audio."""
    return pa.chunked_array([pa.StructArray.from_arrays([pc.struct_field(c, "path")], ["path"]) for c in cells.chunks])


def with_path(row: dict[str, Any], audio: str) -> dict[str, Any]:
    """Replace a cell of the audio column, of which only the path was read, by a column "path", unless there is one."""
    cell = row.pop(audio, None)
    if isinstance(cell, dict) and cell.get("path"):
        row.setdefault("path", cell["path"])
    return row


def rate_of(ref: RecordingRef) -> object:
    """Return what the other columns of a row say as the sampling rate of its audio, in Hz; None if nothing."""
    others = json.loads(ref.metadata or "{}")
    return next((others[name] for name in RATE_NAMES if others.get(name)), None)


def audio_bytes(cell: Any, where: str, rate: object = None) -> bytes | BinaryIO:
    """Return the encoded audio of one cell.

    cell: bytes; a struct of bytes and path; decoded samples, as a list or in a struct as "array" with "sampling_rate",
    which become a wav file. Without bytes the file at the path is read. where: the file of the table; a relative path
    starts in its folder. rate: Hz of a list of samples. Raises BadRecording: "missing_file" if the cell is empty,
    "unsafe_name" if `trust.check` refuses the path, "bad_metadata" if samples have no rate, and whatever
    `remote.read_audio` raises.
    """
    data, path = cell, None
    if isinstance(cell, dict):
        data, path = cell.get("bytes"), cell.get("path")
        if cell.get("array") is not None:
            data, rate = cell["array"], cell.get("sampling_rate") or cell.get("sample_rate") or rate
    if data is None and path:
        named = remote.relative_to(where, path)
        trust.check(named, where)
        return remote.read_audio(named)[0]
    if data is None:
        raise BadRecording("missing_file", f"{where}: the row has neither bytes nor a path")
    if isinstance(data, list):
        return wav_of(data, rate, where)
    if len(data) > remote.MAX_RECORDING_BYTES:
        raise BadRecording("too_large", f"{where}: {len(data):,} bytes; the limit is {remote.MAX_RECORDING_BYTES:,}")
    return bytes(data)


def wav_of(samples: list[Any], rate: object, where: str) -> bytes:
    """Return a wav file of decoded samples: numbers in [-1, 1], or integers of 16 bits; or a list of channels of them.

    rate: Hz. Raises BadRecording("bad_metadata") if the rate is unknown or a sample is no number.
    """
    if isinstance(rate, str) and rate.isdecimal():
        rate = int(rate)
    if not isinstance(rate, int | float) or not 0 < rate < 1 << 32:
        raise BadRecording("bad_metadata", f"{where}: decoded samples without a sampling_rate")
    try:
        values = np.array(samples)
        is_wide = values.dtype.kind in "iu" and values.size and max(values.max(), -values.min()) > 1 << 15
        if values.dtype.kind not in "iuf" or values.ndim not in (1, 2) or is_wide:
            raise ValueError
    except ValueError:
        detail = f"{where}: the samples are neither numbers in [-1, 1] nor integers of 16 bits"
        raise BadRecording("bad_metadata", detail) from None
    if values.ndim == 2 and values.shape[0] < values.shape[1]:
        values = values.T  # [channels, frames] to [frames, channels]
    channels = values.shape[1] if values.ndim == 2 else 1
    kind, code = ("<f4", 3) if values.dtype.kind == "f" else ("<i2", 1)
    data, width, hertz = values.astype(kind).tobytes(), np.dtype(kind).itemsize * channels, round(rate)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, hertz, hertz * width, width, width // channels * 8)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def _is_audio(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any((field.name == "bytes" and _is_binary(field.type)) or _is_samples(field) for field in kind)
    return _is_binary(kind)


def _is_samples(field: pa.Field) -> bool:
    """Return whether a column or field has decoded samples. Other lists of numbers may be anything."""
    return field.name in SAMPLES_NAMES and _is_list(field.type)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return not (pa.types.is_nested(kind) or _is_binary(kind) or pa.types.is_fixed_size_binary(kind))
