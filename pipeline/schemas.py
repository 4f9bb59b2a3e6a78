"""The types that cross a border: pointers, units, segments, and the Parquet schemas of the output tree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, BinaryIO

import pyarrow as pa

SAMPLE_RATE = 16_000  # Hz, mono, everywhere after decoding
SCHEMA_VERSION = 2

REASONS = {
    "empty_file": "zero bytes",
    "not_audio": "the content is no audio that a decoder knows",
    "truncated_audio": "the audio ends before its declared length",
    "corrupt_audio": "the decoder failed inside the stream",
    "no_samples": "decoded to zero samples",
    "invalid_samples": "NaN or infinite samples",
    "unsupported_audio": "sample rate or channel count out of range",
    "too_long": "longer than compute.max_recording_seconds",
    "too_large": "larger than the byte limit",
    "truncated_archive": "the archive ends inside a member",
    "corrupt_archive": "the archive cannot be read from here on",
    "unsafe_name": "absolute, parent or link path inside an archive",
    "missing_file": "listed but not found or not readable",
    "bad_metadata": "the sidecar or manifest line cannot be read",
    "duplicate_id": "another recording has the same id",
    "unsupported_language": "a language the model does not know",
    "model_error": "the model gave no usable answer",
    "crashed": "the process died or failed on this recording, also when it was alone",
    "timeout": "the unit took longer than compute.unit_timeout_seconds",
}


class BadRecording(Exception):
    """One recording cannot be transcribed. `reason` is a key of REASONS; `detail` is for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.detail)


class BadAudio(BadRecording):
    """The bytes are there but are no usable audio."""


class UnreachableError(OSError):
    """A store gave no answer to repeated requests: one line naming the object. No recording is to blame."""


@dataclass(frozen=True, slots=True)
class RecordingRef:
    """Pointer to one recording, made at listing time without reading its audio.

    `offset`/`size` are bytes inside `source_uri` (offset None: the whole object). `sidecars` are (extension, offset,
    size) of companions in the same archive. `start_ms`/`end_ms`/`channel` select a part of the audio (manifests).
    `problem` is a reason known already at listing: such a recording goes straight to the dead letters.
    """

    recording_id: str
    format: str
    source_uri: str
    source_member: str | None = None
    offset: int | None = None
    size: int = 0
    version: str = ""  # etag or mtime: enters the unit's id
    sidecars: tuple[tuple[str, int, int], ...] = ()
    language: str | None = None
    reference: str | None = None
    metadata: str | None = None  # JSON text
    seconds: float | None = None  # where the source declares it
    start_ms: int | None = None
    end_ms: int | None = None
    channel: int | None = None
    problem: str | None = None
    problem_detail: str | None = None


_json = json.JSONEncoder(check_circular=False).encode  # the text of json.dumps, a fifth faster
_REF_FIELDS = tuple(field.name for field in fields(RecordingRef))
content_of = attrgetter(*_REF_FIELDS)  # all fields of a RecordingRef, in order: a million of them need it quickly


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording as read: encoded audio and what the source says about it.

    audio: the bytes, or where they are many a seekable file that reads ranges; whoever reads it closes it.
    """

    audio: bytes | BinaryIO
    language: str | None
    reference: str | None
    metadata: str | None


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """A bounded number of recordings that are committed together. `unit_id` is derived from the content of `refs`."""

    unit_id: str
    refs: tuple[RecordingRef, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """One window of speech on its way to the model. pcm: int16 little endian, mono, 16 kHz."""

    key: str  # "<recording id>#<segment index>#<start sample>": seeds the segment's random generator
    language: str | None
    pcm: bytes


@dataclass(slots=True)
class SegmentResult:
    """What the model says about one segment. text None: no answer (`error` says why)."""

    text: str | None
    confidence: float | None = None
    words: list[dict[str, str | float]] = field(default_factory=list)
    signals: dict[str, float | None] | None = None
    steps: int = 0
    canvas_length: int = 0
    canvas_fill: float = 0.0
    overflow: bool = False
    error: str | None = None


WORD = pa.struct([("text", pa.string()), ("confidence", pa.float32())])
SIGNALS = pa.struct(
    [
        ("token_probability_mean", pa.float32()),
        ("token_probability_min", pa.float32()),
        ("entropy_mean", pa.float32()),
        ("entropy_max", pa.float32()),
        ("first_stable_step_mean", pa.float32()),
        ("revisions", pa.float32()),
        ("ctc_score", pa.float32()),
    ]
)

TRANSCRIPT = pa.schema(
    [
        ("recording_id", pa.string()),
        ("segment_index", pa.int32()),
        ("source_uri", pa.string()),
        ("source_member", pa.string()),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("channel", pa.int32()),  # null: the mean of all channels
        ("language", pa.string()),
        ("text", pa.string()),
        ("confidence", pa.float32()),
        ("confidence_source", pa.string()),
        ("words", pa.list_(WORD)),
        ("signals", SIGNALS),
        ("steps", pa.int16()),
        ("canvas_length", pa.int16()),
        ("canvas_fill", pa.float32()),
        ("overflow", pa.bool_()),
        ("chars_per_second", pa.float32()),
        ("reference", pa.string()),
        ("metadata", pa.string()),
        ("unit_id", pa.string()),
        ("model", pa.string()),
        ("fingerprint", pa.string()),
    ]
)

DEAD_LETTER = pa.schema(
    [
        ("recording_id", pa.string()),
        ("source_uri", pa.string()),
        ("source_member", pa.string()),
        ("language", pa.string()),
        ("reason", pa.string()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("seconds", pa.float64()),
        ("reference", pa.string()),
        ("metadata", pa.string()),
        ("unit_id", pa.string()),
        ("fingerprint", pa.string()),
    ]
)

SIDECAR = pa.struct([("extension", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])

PLAN = pa.schema(  # one row per recording, in plan order: the unit it belongs to, then the fields of RecordingRef
    [
        ("unit_id", pa.string()),
        ("part", pa.int32()),  # of the published tables: fixed here, so that a part can be replaced alone
        ("retried_reason", pa.string()),  # retry rounds: why and with how many samples it was dead-lettered before
        ("retried_samples", pa.int64()),
        ("recording_id", pa.string()),
        ("format", pa.string()),
        ("source_uri", pa.string()),
        ("source_member", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("sidecars", pa.list_(SIDECAR)),
        ("language", pa.string()),
        ("reference", pa.string()),
        ("metadata", pa.string()),
        ("seconds", pa.float64()),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("channel", pa.int32()),
        ("problem", pa.string()),
        ("problem_detail", pa.string()),
    ]
)


_COUNTS = ("hits", "substitutions", "deletions", "insertions")
EVALUATED = pa.schema(  # one row per recording of an evaluated set; kept under evaluations/date=/set=/language=/
    [
        ("date", pa.string()),  # of the evaluation, UTC, YYYY-MM-DD
        ("set", pa.string()),
        ("language", pa.string()),  # "unknown" where the source does not say
        ("evaluation", pa.string()),  # its id: name, run and the beginning of config_hash
        ("evaluated_at", pa.timestamp("s", "UTC")),
        ("model", pa.string()),  # name@hash of the weights
        ("revision", pa.string()),
        ("fingerprint", pa.string()),  # of the output that was scored
        ("config_hash", pa.string()),  # of the settings that decide the figures
        ("code_version", pa.string()),
        ("hardware", pa.string()),
        ("normaliser", pa.string()),  # name/version, then the library beneath and its version
        ("recording_id", pa.string()),
        ("speaker", pa.string()),  # null: unknown
        ("seconds", pa.float64()),  # of audio; null: unknown
        ("snr_db", pa.float32()),  # null: unknown
        ("status", pa.string()),  # transcribed | dead_letter | missing
        ("reason", pa.string()),  # of a dead letter
        ("confidence", pa.float32()),
        ("steps", pa.float32()),  # denoising steps, mean of the segments
        ("reference", pa.string()),  # null: the source has none, nothing is counted
        ("hypothesis", pa.string()),  # "" where there is none
        ("reference_normal", pa.string()),  # what was counted
        ("hypothesis_normal", pa.string()),
        *[(f"word_{name}", pa.int32()) for name in _COUNTS],
        *[(f"char_{name}", pa.int32()) for name in _COUNTS],
        *[(f"merged_{name}", pa.int32()) for name in _COUNTS],  # words, compounds written apart or together are equal
        ("audio", pa.string()),  # where it is, as far as a browser or a person can open it
    ]
)


def to_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table with exactly `schema`: all columns, typed, in order. Raises KeyError on a missing column."""
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row in rows:
        if extra := set(row) - set(columns):
            raise KeyError(f"columns not in the schema: {sorted(extra)}")
        for name in schema.names:
            columns[name].append(row[name])
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


SPAN = [
    ("recording_index", pa.int32()),  # within the unit's `recordings`
    ("segment_index", pa.int32()),
    ("channel", pa.int32()),  # null: the mean of all channels
    ("start_sample", pa.int64()),
    ("end_sample", pa.int64()),
    ("overlaps_previous", pa.bool_()),
]
SEGMENT = pa.struct([*SPAN, ("key", pa.string()), ("language", pa.string()), ("pcm", pa.large_binary())])
RESULT = pa.struct(
    [
        *SPAN,
        ("text", pa.string()),  # null: no answer, `error` says why
        ("error", pa.string()),
        ("confidence", pa.float32()),
        ("words", pa.list_(WORD)),
        ("signals", SIGNALS),
        ("steps", pa.int16()),
        ("canvas_length", pa.int16()),
        ("canvas_fill", pa.float32()),
        ("overflow", pa.bool_()),
    ]
)

_IN_FLIGHT = [  # one row is a unit, or where that has much audio a part of it
    ("unit_id", pa.string()),
    ("unit", pa.string()),  # the WorkUnit as JSON
    ("part", pa.int32()),  # 0 first
    ("start", pa.string()),  # decode.Position where this part begins, as JSON
    ("next", pa.string()),  # where the next one begins; null: this is the last
    ("samples", pa.int64()),  # of audio in this part, at 16 kHz
    ("recordings", pa.string()),  # JSON: what was found of each recording that ends in this part, by its index
    ("suspect", pa.bool_()),  # the unit broke its process before: nothing was done with it, it is tried alone
    ("retries", pa.string()),  # JSON: requests to stores that were repeated on the way, counted by error
    ("saved", pa.bool_()),  # an earlier run has heard this part (parts.py): nothing was done with it
]
UNIT_DECODED = pa.schema([*_IN_FLIGHT, ("segments", pa.list_(SEGMENT))])
UNIT_TRANSCRIBED = pa.schema([*_IN_FLIGHT, ("results", pa.list_(RESULT))])


def unit_to_json(unit: WorkUnit) -> str:
    """A unit as text, for its way through Ray."""
    refs = [dict(zip(_REF_FIELDS, content_of(ref), strict=True)) for ref in unit.refs]
    return _json({"unit_id": unit.unit_id, "refs": refs})


def unit_from_json(text: str) -> WorkUnit:
    """The unit that `unit_to_json` wrote."""
    fields = json.loads(text)
    refs = (ref | {"sidecars": tuple(tuple(sidecar) for sidecar in ref["sidecars"])} for ref in fields["refs"])
    return WorkUnit(fields["unit_id"], tuple(RecordingRef(**ref) for ref in refs))
