"""Manifests: JSON lines (NeMo, Lhotse cuts), CSV and TSV whose lines name an audio file or a section of one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from unicodedata import normalize
from urllib.parse import unquote

from pipeline.config import COLUMN, ConfigError, SourceConfig, public
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources import lhotse
from pipeline.sources.access import fields, remote, trust
from pipeline.sources.access.lines import Row, kind_of, read_manifest
from pipeline.sources.access.listing import File, list_files, local_size


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """Yield one ref per line. offset and duration select a section of the file; duration alone selects its beginning.

    A line that cannot be used has a problem whose detail names file and line, and it keeps reference and metadata.
    Without an id column the id is the path as written, followed by #START-ENDms for a section. Missing audio is only
    noticed when it is read. A line that names an address which `trust.check` refuses has the problem "unsafe_name".
    Raises ConfigError if there is no manifest, if no line has a column that the settings name, and if such an address
    comes before any good line.
    """
    wanted = {
        key: name.removeprefix(COLUMN)
        for key in ("audio_column", "id_column", "text_column", "language")
        if (name := getattr(source, key)) and (key != "language" or name.startswith(COLUMN))
    }
    missing = dict(wanted)
    any_is_good = False
    for file in list_files(source.uri):
        kind = kind_of(file.name)
        if not (file.named or kind in ("jsonl", "csv", "tsv") or (kind and ".json" in source.uri.rpartition("/")[2])):
            continue
        for row in read_manifest(file):
            if row.error is None and missing:
                missing = {key: name for key, name in missing.items() if name not in row.columns}
            if row.error is None and kind in ("csv", "tsv"):
                _check_header(source, file, row)
            ref = _ref(source, file, row)
            if ref.problem == "unsafe_name" and not any_is_good:  # probably all are of this kind, and meant well
                raise ConfigError(f"source.root: {ref.problem_detail}")
            any_is_good = any_is_good or ref.problem is None
            yield ref
    for key, name in missing.items():
        raise ConfigError(f"source.{key}: no line of {source.uri} has {name!r}")


def read_recording(ref: RecordingRef) -> Recording:
    """Read the whole audio file; the ref says which section is meant. Raises BadRecording as `remote.read_audio`."""
    audio, version = remote.read_audio(ref.source_uri, ref.size)
    return Recording(audio, ref.language, ref.reference, ref.metadata, version)


def _check_header(source: SourceConfig, file: File, row: Row) -> None:
    """Raise ConfigError if no column of a table is that of the audio. Only rows after it can tell, if this has none."""
    if source.audio_column is None and not any(name in row.columns for name in fields.AUDIO_NAMES):
        try:
            fields.audio_path(row.columns)
        except BadRecording:
            existing = ", ".join(row.columns)
            raise ConfigError(f"source.audio_column: which of {existing} in {file.uri} is the audio?") from None


def _ref(source: SourceConfig, file: File, row: Row) -> RecordingRef:
    where = f"{file.uri}:{row.line}"
    columns, name = row.columns, f"{file.name}:{row.line}"
    try:
        if row.error is not None:
            raise row.error
        if lhotse.is_lhotse(columns):
            columns = lhotse.to_columns(columns)
        name = _id(source, columns) or name
        return _good_ref(source, file, columns)
    except BadRecording as err:
        detail = err.detail if err.detail.startswith(where) else f"{where}: {err.detail}"
        described = err.described or fields.kept(columns, source.text_column)
        ref = RecordingRef(name, "manifest", file.uri, f"line {row.line}", version=file.version, **described)
        return replace(ref, problem=err.reason, problem_detail=detail)


class Span(NamedTuple):
    """Which section of a file a line means. suffix: of the recording's id, "" for a whole file of one channel."""

    seconds: float | None
    start_ms: int | None
    end_ms: int | None
    channel: int | None
    suffix: str


def span_of(columns: Mapping[str, Any]) -> Span:
    """The section that duration, offset and channel of a line select. Raises BadRecording("bad_metadata")."""
    seconds, offset = (fields.to_seconds(columns.get(key), key) for key in ("duration", "offset"))
    channel = _channel(columns.get("channel"))
    start_ms = end_ms = None
    suffix = "" if channel is None else f"#channel-{channel}"
    if offset is not None:
        start_ms = round(offset * 1000)
        end_ms = None if seconds is None else round((offset + seconds) * 1000)
        if end_ms is not None and end_ms <= start_ms:
            raise BadRecording("bad_metadata", f"offset and duration select nothing: {offset} s, {seconds} s")
        suffix += f"#{start_ms}-{'' if end_ms is None else end_ms}ms"
    elif seconds:
        end_ms = math.ceil(seconds * 1000)
    return Span(seconds, start_ms, end_ms, channel, suffix)


def _good_ref(source: SourceConfig, file: File, columns: dict[str, Any]) -> RecordingRef:
    audio, path = fields.audio_path(columns, source.audio_column)
    named = remote.relative_to(file.uri, path)
    trust.check(named, file.uri, source)
    uri, (size, version) = _found(named)
    trust.check(uri, file.uri, source)  # %2e%2e/ and the like are tried too
    span = span_of(columns)
    drop = [audio, source.id_column or _first(columns, fields.ID_NAMES), "duration", "offset", "channel"]
    text = source.text_column or ("target" if audio == "source" else None)  # source and target are FunASR's
    described = fields.describe(columns, language=source.language, text=text, drop=drop)
    return RecordingRef(
        recording_id=_id(source, columns) or f"{public(path.strip())}{span.suffix}",
        format="manifest",
        source_uri=uri,
        size=size,
        version=version,
        language=described.language,
        reference=described.reference,
        metadata=described.metadata,
        seconds=span.seconds,
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        channel=span.channel,
    )


def _found(uri: str) -> tuple[str, tuple[int, str]]:
    """Return the URI of the file that is meant, with its size and version, if it is on the local disk.

    If there is no file of exactly this name, others that people mean by it are tried: without spaces around it, with
    the slashes of Windows, in the other normal forms of Unicode, with the characters of %20 and the like.
    """
    uri = uri.removeprefix("file://") if uri.startswith("file:///") else uri
    found = local_size(uri)
    if found[1] or not uri.startswith("/"):
        return (uri if found[1] else uri.strip()), found
    trimmed = "/".join(part.strip() for part in uri.split("/"))
    plain = unquote(trimmed)
    others = (normalize(form, name) for name in (trimmed, plain) for form in ("NFC", "NFD"))
    for other in dict.fromkeys((trimmed, trimmed.replace("\\", "/"), plain, *others)):
        if (found := local_size(other))[1]:
            return other, found
    return uri, (0, "")


def _id(source: SourceConfig, columns: dict[str, Any]) -> str | None:
    name = source.id_column or _first(columns, fields.ID_NAMES)
    return fields.to_text(columns.get(name), name) or None


def _channel(value: object) -> int | None:
    """Return the number of a channel, from 0; None for none. Raises BadRecording("bad_metadata") for anything else."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isascii() and value.removesuffix(".0").isdecimal():
        value = float(value)
    if isinstance(value, float) and value.is_integer():  # pandas writes 0.0 where other lines have no channel
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1024:
        raise BadRecording("bad_metadata", f"channel: expected a number from 0, got {value!r:.100}")
    return value


def _first(columns: dict[str, Any], names: tuple[str, ...]) -> str:
    """Return the first of `names` with a value, else the first name."""
    return next((name for name in names if columns.get(name) not in (None, "")), names[0])
