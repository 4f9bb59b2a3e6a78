"""The types that cross a border: pointers, units, segments, and the Parquet schemas of the output tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
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
class Place:
    """Where a unit stands in a plan: `rows` rows from `first_row` on, in one row group of `_run/<plan>.parquet`.

    A unit travels through the chain as its id and its place. The stage that needs its references reads them there, so
    the driver's memory does not grow with the number of recordings.
    """

    plan: str  # "plan", "retry-1", ...
    row_group: int
    first_row: int  # within the row group
    rows: int  # one row is one recording

    def recording(self, index: int) -> Place:
        """The place of one recording of this unit."""
        return Place(self.plan, self.row_group, self.first_row + index, 1)


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a unit a piece begins. The rest of the unit depends on the unit and on this, and on nothing else."""

    recording: int = 0  # index in the unit
    channel: int = 0  # number of its channels that are done
    sample: int = 0  # at 16 kHz, a whole number of milliseconds
    segment: int = 0  # index of its next segment
    before: int = 0  # samples in the channels that are done
    overlaps: bool = False  # the next segment begins before the end of the segment before it


START = Position()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a recording has no transcript."""

    reason: str  # a key of REASONS
    stage: str  # list, read, decode, model
    error: str  # for a person


@dataclass(frozen=True, slots=True)
class DecodedRecording:
    """What the source and the decoder say about a recording, besides its segments.

    samples: at 16 kHz, of all channels that are recognised one by one; None where it could not be decoded.
    """

    samples: int | None = None
    language: str | None = None
    reference: str | None = None
    metadata: str | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What every stage knows besides the config."""

    window_seconds: float  # the longest segment that the model takes
    languages: tuple[str, ...]  # that the model knows
    model: str  # name@hash, as written to the transcripts
    fingerprint: str  # id of the settings, as written to the transcripts


@dataclass(frozen=True, slots=True)
class Segment:
    """One window of speech on its way to the model. pcm: int16 little endian, mono, 16 kHz."""

    key: str  # "<recording id>#<segment index>#<start sample>": seeds the segment's random generator
    language: str | None
    pcm: bytes | memoryview


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
    ("recording_index", pa.int32()),  # within the unit
    ("segment_index", pa.int32()),
    ("channel", pa.int32()),  # null: the mean of all channels
    ("start_sample", pa.int64()),
    ("end_sample", pa.int64()),
    ("overlaps_previous", pa.bool_()),
]
SEGMENT = pa.struct(
    [*SPAN, ("key", pa.string()), ("language", pa.string()), ("pcm_offset", pa.int64())]  # bytes into the row's `pcm`
)
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

PLACE = pa.struct([("plan", pa.string()), ("row_group", pa.int32()), ("first_row", pa.int32()), ("rows", pa.int32())])
POSITION = pa.struct(
    [
        ("recording", pa.int32()),
        ("channel", pa.int32()),
        ("sample", pa.int64()),
        ("segment", pa.int32()),
        ("before", pa.int64()),
        ("overlaps", pa.bool_()),
    ]
)
PROBLEM = pa.struct([("reason", pa.string()), ("stage", pa.string()), ("error", pa.string())])
DECODED_RECORDING = pa.struct(
    [
        ("recording_index", pa.int32()),
        ("samples", pa.int64()),
        ("language", pa.string()),
        ("reference", pa.string()),
        ("metadata", pa.string()),
        ("problem", PROBLEM),
    ]
)

TODO = pa.schema([("unit_id", pa.string()), ("place", PLACE)])  # one row is one unit that is not committed
_PIECE = [  # one row is a unit, or a bounded piece of a unit with much audio
    *TODO,
    ("piece", pa.int32()),  # 0 first
    ("start", POSITION),  # where this piece begins
    ("next", POSITION),  # where the next piece begins; null: this is the last one
    ("samples", pa.int64()),  # of audio in this piece, at 16 kHz
    ("recordings", pa.list_(DECODED_RECORDING)),  # those that end in this piece
    ("suspect", pa.bool_()),  # the unit crashed its process before: nothing is done yet, it will run alone
    ("saved", pa.bool_()),  # an earlier run has saved this piece (output/pieces.py): nothing was done again
]
PIECE_DECODED = pa.schema([*_PIECE, ("segments", pa.list_(SEGMENT)), ("pcm", pa.large_binary())])
PIECE_RECOGNISED = pa.schema([*_PIECE, ("results", pa.list_(RESULT))])


def piece_row(unit_id: str, place: Place, piece: int, start: Position, following: Position | None) -> dict[str, Any]:
    """A row of PIECE_DECODED without audio. following: where the next piece begins, None after the last one."""
    return {
        "unit_id": unit_id,
        "place": asdict(place),
        "piece": piece,
        "start": asdict(start),
        "next": None if following is None else asdict(following),
        "samples": 0,
        "recordings": [],
        "suspect": False,
        "saved": False,
        "segments": [],
        "pcm": b"",
    }


def recordings_of(pieces: Iterable[Mapping[str, Any]]) -> list[DecodedRecording]:
    """The recordings of a unit in order, from the rows of all its pieces."""
    rows = {row["recording_index"]: row for piece in pieces for row in piece["recordings"]}
    names = [field.name for field in fields(DecodedRecording)]
    found = [{name: rows[index][name] for name in names} for index in range(len(rows))]
    return [DecodedRecording(**row | {"problem": row["problem"] and Problem(**row["problem"])}) for row in found]


def pcm_of(pcm: memoryview, segment: Mapping[str, Any]) -> memoryview:
    """The samples of one segment in the `pcm` of its row: int16 little endian, not copied."""
    start = segment["pcm_offset"]
    return pcm[start : start + 2 * (segment["end_sample"] - segment["start_sample"])]
