"""Manifests: JSON lines (NeMo, Lhotse cuts), CSV and TSV that point to audio files, in whole or in part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources import lhotse
from pipeline.sources.access import fields, remote
from pipeline.sources.access.lines import Record, kind_of, read_records
from pipeline.sources.access.listing import File, list_files, local_size

AUDIO_NAMES = ("audio_filepath", "audio", "audio_path", "audio_file", "path", "file_name", "filename", "file", "wav")
ID_NAMES = ("id", "utt_id", "utterance_id", "recording_id", "key")


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """One ref per line; offset and duration select a part. A line that cannot be used has the problem "bad_metadata"
    (or what else it is) and names file and line; those after it go on.

    Without an id: the path as written, with #START-ENDms where a part is selected. Missing audio shows when it is read.
    Raises ConfigError where there is no manifest, or where a column that was asked for is in none of its lines.
    """
    wanted = {
        key: name.removeprefix(fields.COLUMN)
        for key in ("audio_column", "id_column", "text_column", "language")
        if (name := getattr(source, key)) and (key != "language" or name.startswith(fields.COLUMN))
    }
    missing = dict(wanted)
    for file in list_files(source.uri):
        kind = kind_of(file.name)
        if not (file.named or kind in ("jsonl", "csv", "tsv") or (kind and ".json" in source.uri.rpartition("/")[2])):
            continue
        for record in read_records(file):
            if record.error is None and missing:
                missing = {key: name for key, name in missing.items() if name not in record.columns}
            if record.error is None and kind in ("csv", "tsv"):
                _check_header(source, file, record)
            yield _ref(source, file, record)
    for key, name in missing.items():
        raise ConfigError(f"source.{key}: no line of {source.uri} has {name!r}")


def read_recording(ref: RecordingRef) -> Recording:
    """The whole audio file; the part to take is in the ref. Raises BadRecording as `remote.read_audio`."""
    return Recording(remote.read_audio(ref.source_uri, ref.size), ref.language, ref.reference, ref.metadata)


def _check_header(source: SourceConfig, file: File, record: Record) -> None:
    if source.audio_column is None and not any(name in record.columns for name in AUDIO_NAMES):
        raise ConfigError(f"source.audio_column: which of {', '.join(record.columns)} in {file.uri} is the audio?")


def _ref(source: SourceConfig, file: File, record: Record) -> RecordingRef:
    where = f"{file.uri}:{record.line}"
    columns, name = record.columns, f"{file.name}:{record.line}"
    try:
        if record.error is not None:
            raise record.error
        if lhotse.is_lhotse(columns):
            columns = lhotse.to_columns(columns)
        name = _id(source, columns) or name
        return _good_ref(source, file, columns)
    except BadRecording as err:
        detail = err.detail if err.detail.startswith(where) else f"{where}: {err.detail}"
        ref = RecordingRef(name, "manifest", file.uri, f"line {record.line}", version=file.version)
        return replace(ref, problem=err.reason, problem_detail=detail)


def _good_ref(source: SourceConfig, file: File, columns: dict[str, Any]) -> RecordingRef:
    audio = source.audio_column or _first(columns, AUDIO_NAMES)
    path = columns.get(audio)
    if not isinstance(path, str) or not path or "\0" in path:
        raise BadRecording("bad_metadata", f"no path of an audio file in {audio!r}")
    uri = remote.relative_to(file.uri, fields.storable(path, audio))
    seconds, offset = (fields.to_seconds(columns.get(key), key) for key in ("duration", "offset"))
    channel = _channel(columns.get("channel"))
    start_ms = end_ms = None
    part = "" if channel is None else f"#channel-{channel}"
    if offset is not None:
        start_ms = round(offset * 1000)
        end_ms = None if seconds is None else round((offset + seconds) * 1000)
        if end_ms is not None and end_ms <= start_ms:
            raise BadRecording("bad_metadata", f"offset and duration select nothing: {offset} s, {seconds} s")
        part += f"#{start_ms}-{'' if end_ms is None else end_ms}ms"
    drop = [audio, source.id_column or _first(columns, ID_NAMES), "duration", "offset", "channel"]
    found = fields.describe(columns, language=source.language, text=source.text_column, drop=drop)
    size, version = (0, "") if seconds is not None else local_size(uri)
    return RecordingRef(
        recording_id=_id(source, columns) or f"{path}{part}",
        format="manifest",
        source_uri=uri,
        size=size,
        version=version,
        language=found.language,
        reference=found.reference,
        metadata=found.metadata,
        seconds=seconds,
        start_ms=start_ms,
        end_ms=end_ms,
        channel=channel,
    )


def _id(source: SourceConfig, columns: dict[str, Any]) -> str | None:
    name = source.id_column or _first(columns, ID_NAMES)
    return fields.to_text(columns.get(name), name) or None


def _channel(value: object) -> int | None:
    """A channel number from 0, None for none. Raises BadRecording("bad_metadata") for anything else."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:9])
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1024:
        raise BadRecording("bad_metadata", f"channel: a number from 0 is needed, found {value!r:.100}")
    return value


def _first(columns: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if columns.get(name) not in (None, "")), names[0])
