"""The types that stages hand to each other, and the schemas of the Parquet files in the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter, itemgetter
from typing import Any, BinaryIO, TypedDict

import pyarrow as pa

from pipeline.config import public

SAMPLE_RATE = 16_000  # Hz, mono, everywhere after decoding
SAMPLES_PER_MS = SAMPLE_RATE // 1000  # 16
BYTES_PER_SAMPLE = 2  # int16 little endian
# The version of what stands in an output. Raise it with every change. Outputs since OLDEST_SCHEMA are read and resumed:
# what they lack is null. Where a change does more than add what may be null, raise OLDEST_SCHEMA to the new version.
SCHEMA_VERSION = 6
OLDEST_SCHEMA = 5
ARCHIVE = "!archive"  # ends the id of a RecordingRef that stands for all that cannot be read of an archive

REASONS = {  # why a recording is a dead letter, and what that means
    "empty_file": "the file has zero bytes",
    "not_audio": "no decoder knows the content as audio",
    "truncated_audio": "the audio ends before its declared length",
    "corrupt_audio": "the decoder failed inside the stream",
    "no_samples": "decoding gave no samples",
    "invalid_samples": "some samples are NaN or infinite",
    "unsupported_audio": "the sample rate or the number of channels is out of range",
    "too_long": "the audio is longer than compute.max_recording_seconds",
    "too_large": "the file has more bytes than the limit",
    "truncated_archive": "the archive ends inside a member",
    "corrupt_archive": "the archive cannot be read from here on",
    "unsafe_name": "the name or address leads out of the archive, the source or the web, or is a link",
    "missing_file": "the file was listed, but is missing or not readable",
    "source_changed": "the file was written again after it was planned",
    "bad_metadata": "the sidecar or the manifest line cannot be read",
    "duplicate_id": "an earlier recording has the same id",
    "unsupported_language": "the model does not know the language",
    "model_error": "the model gave no usable answer",
    "crashed": "the process died or failed on this recording, even when it ran alone",
    "timeout": "one piece took longer than compute.unit_timeout_seconds",
}


class BadRecording(Exception):
    """One recording cannot be transcribed. `reason` is a key of REASONS; `detail` is for people, without secrets.

    described: reference and metadata, by these names, where the source could still say them.
    """

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        detail = public(detail)
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.described: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.detail)


class BadAudio(BadRecording):
    """The bytes could be read, but they are not usable audio."""


@dataclass(frozen=True, slots=True)
class RecordingRef:
    """Where one recording is. Listing makes it without reading the audio.

    `offset` and `size` are bytes inside `source_uri`; offset None means the whole object. `missing_bytes` are those
    that an archive declares and, because it is cut, does not have; `size` is then what it has. `sidecars` are companion
    files in the same archive, as (extension, offset, size). A manifest may select a range of the audio with `start_ms`
    and `end_ms`, or one `channel`. `problem` is a reason that listing already knows; such a recording becomes a
    dead letter without being read.
    """

    recording_id: str
    format: str
    source_uri: str
    source_member: str | None = None
    offset: int | None = None
    size: int = 0
    version: str = ""  # ETag or time of the last change; the unit's id depends on it
    sidecars: tuple[tuple[str, int, int], ...] = ()
    language: str | None = None
    reference: str | None = None
    metadata: str | None = None  # JSON text
    seconds: float | None = None  # None: the source does not declare it
    start_ms: int | None = None
    end_ms: int | None = None
    channel: int | None = None
    problem: str | None = None
    problem_detail: str | None = None
    missing_bytes: int = 0


_REF_FIELDS = tuple(field.name for field in fields(RecordingRef))
content_of = attrgetter(*_REF_FIELDS)  # all fields of a RecordingRef in order; fast, for millions of them


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording as it was read: encoded audio, and what the source says about it.

    audio: the bytes, or for a large recording a seekable file that reads ranges. The caller closes it. version: as that
    of a `RecordingRef`, if the store has said it together with the bytes; else "".
    """

    audio: bytes | BinaryIO
    language: str | None
    reference: str | None
    metadata: str | None
    version: str = field(default="", compare=False)

    def close(self) -> None:
        """Close the audio, if it is a file."""
        if not isinstance(self.audio, bytes):
            self.audio.close()


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """Recordings that are committed together. `unit_id` is a hash of the content of `refs`."""

    unit_id: str
    refs: tuple[RecordingRef, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a unit stands in a plan: `rows` rows from `first_row` on, in one row group of `_run/<plan>.parquet`.

    A unit travels through the chain as its id and its place. A stage that needs its references reads them from the
    plan. So the driver's memory does not grow with the number of recordings.
    """

    plan: str  # "plan", "round-1", ...
    row_group: int
    first_row: int  # within the row group
    rows: int  # one row is one recording

    def recording(self, index: int) -> Place:
        """The place of one recording of this unit."""
        return Place(self.plan, self.row_group, self.first_row + index, 1)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a piece begins in its unit. Unit and position determine everything from there on."""

    recording: int = 0  # index in the unit
    channel: int = 0  # how many of its channels are complete
    sample: int = 0  # at 16 kHz, a whole number of milliseconds
    segment: int = 0  # index of the recording's next segment
    before: int = 0  # samples in its complete channels
    overlaps: bool = False  # the next segment begins before the end of the segment before it


START = Position()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a recording has no transcript, or not all of it."""

    reason: str  # a key of REASONS
    stage: str  # list, read, decode, model
    error: str  # for people


@dataclass(frozen=True, slots=True)
class DecodedRecording:
    """What is known about a recording after decoding, besides its segments.

    samples: at 16 kHz. If channels are split, the sum over all channels. None: it could not be decoded.
    damage: of a recording that is transcribed all the same. lost_samples: at 16 kHz, those of `samples` that are not
    heard because of it. Both are known when all pieces are: see `recordings_of`. tracks_left_out: audio tracks that are
    not recognised. bytes_left_out: bytes behind the audio that nobody knows.
    """

    samples: int | None = None
    language: str | None = None
    reference: str | None = None
    metadata: str | None = None
    problem: Problem | None = None
    damage: Problem | None = None
    lost_samples: int = 0
    tracks_left_out: int = 0
    bytes_left_out: int = 0


@dataclass(frozen=True, slots=True)
class About:
    """What every stage needs to know besides the config."""

    window_seconds: float  # length of the longest segment that the model takes
    languages: tuple[str, ...]  # the languages that the model knows
    model: str  # name@hash, a column of the transcripts
    fingerprint: str  # id of the settings, a column of the transcripts
    run: str = "0"  # id of this run of the job, in the names of its markers
    detects_language: bool = False  # whether the model finds the language of a recording where nobody says it
    second_languages: tuple[str, ...] = ()  # the languages that model.second knows
    log_json: bool = False  # whether every process of the run logs JSON


@dataclass(frozen=True, slots=True)
class Segment:
    """One window of speech on its way to the model. pcm: int16 little endian, mono, 16 kHz."""

    key: str  # "<recording id>#<segment index>#<start sample>": its name in messages
    language: str | None
    pcm: bytes | memoryview


class Word(TypedDict):
    """A word of a segment; times in milliseconds from the segment's beginning, None where they are not known."""

    text: str
    confidence: float
    start_ms: int | None
    end_ms: int | None
    signals: dict[str, float | None] | None


@dataclass(slots=True)
class SegmentResult:
    """What the model recognised in one segment. text None: no answer, `error` says why. Empty text: silence."""

    text: str | None
    confidence: float | None = None
    words: list[Word] = field(default_factory=list)
    signals: dict[str, float | None] | None = None
    # What follows is None for an engine without steps, or without a limit of tokens.
    steps: int | None = None
    canvas_length: int | None = None
    canvas_fill: float | None = None
    overflow: bool | None = None
    error: str | None = None
    language: str | None = None  # the detected one; None where the segment's was given, or the model detects none


WORD_SIGNALS = pa.struct(  # of the tokens that spell a word; null where the engine has no such thing
    [
        ("token_probability_min", pa.float32()),  # at T = 1: the word's confidence before calibration
        ("token_probability_mean", pa.float32()),
        ("entropy_max", pa.float32()),  # divided by log(vocabulary), as all entropies
        ("first_stable_step", pa.float32()),  # the last of its tokens
        ("revisions", pa.float32()),  # sum
        ("early_distance", pa.float32()),  # share of the tokens that the argmax of step 2 had otherwise
        ("ctc_score", pa.float32()),  # log-probability at its audio slots of the least probable token, nats
        ("ctc_agreement", pa.float32()),  # share of the letters that CTC's own text has too
        ("vote_agreement", pa.float32()),  # share of the votes that have this word here; null: there was no vote
        ("second_agreement", pa.float32()),  # share of the letters, normalised, that model.second has too
    ]
)
WORD = pa.struct(
    [
        ("text", pa.string()),
        ("confidence", pa.float32()),
        ("start_ms", pa.int64()),  # of the recording; null: not known
        ("end_ms", pa.int64()),
        ("signals", WORD_SIGNALS),
    ]
)
SIGNALS = pa.struct(
    [
        ("confidence_raw", pa.float32()),  # the segment's confidence before calibration
        ("token_probability_mean", pa.float32()),
        ("token_probability_min", pa.float32()),
        ("entropy_mean", pa.float32()),
        ("entropy_max", pa.float32()),
        ("first_stable_step_mean", pa.float32()),
        ("revisions", pa.float32()),
        ("early_distance", pa.float32()),  # of the argmax of step 2 to the text, as a share of the longer one
        ("ctc_score", pa.float32()),  # log-probability of the text per token, nats; null: no text or too few slots
        ("ctc_disagreement", pa.float32()),  # edit distance to CTC's own text, as a share of the longer one
        # words; null: denoise.remove_repeats is off or the model has no CTC; of Whisper: words of loops, decode.clean
        ("repeats_removed", pa.float32()),
        ("votes", pa.float32()),  # texts of other noise that voted, this one among them; null: there was no vote
        ("vote_agreement", pa.float32()),  # share of the votes for what won, mean over the places of the text
        ("second_text", pa.string()),  # of model.second; null: none is set, or it gave no answer
        ("second_agreement", pa.float32()),  # 1 less the edit distance to it, as a share of the longer; normalised
        # The rest is Whisper's.
        ("phrases_removed", pa.float32()),  # words of lines that it is known to write where nobody says them
        ("language_probability", pa.float32()),  # of the detected language; null: the language was given
        ("no_speech_probability", pa.float32()),
        ("log_probability_mean", pa.float32()),  # of the tokens and the end, nats
        ("compression_ratio", pa.float32()),  # of the text before loops were removed: high where it repeats itself
        ("temperature", pa.float32()),  # at which the text was found; above 0: earlier tries were bad
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
        ("channel", pa.int32()),  # number of the channel or track; null: the mean of all channels of the only track
        ("language", pa.string()),  # the source's, else the one that Whisper detects; null: unknown
        ("text", pa.string()),
        ("confidence", pa.float32()),  # of diffusion models: what denoising and CTC say of the text, geometric mean
        ("confidence_source", pa.string()),
        ("words", pa.list_(WORD)),
        ("signals", SIGNALS),
        ("steps", pa.int16()),
        ("canvas_length", pa.int16()),
        ("canvas_fill", pa.float32()),
        ("overflow", pa.bool_()),
        ("chars_per_second", pa.float32()),
        ("problem", pa.string()),  # reason why some of the recording was not heard; null: all of it was
        ("reference", pa.string()),
        ("metadata", pa.string()),
        ("unit_id", pa.string()),
        ("model", pa.string()),
        ("fingerprint", pa.string()),
    ]
)

_OF_SEGMENT = (  # columns of TRANSCRIPT that a label keeps
    *("recording_id", "source_uri", "source_member", "channel", "start_ms", "end_ms", "language", "text", "words"),
    *("confidence", "confidence_source", "signals", "steps", "reference", "metadata", "unit_id", "model"),
    "fingerprint",
)
LABELS = pa.schema(  # one row per kept label and per dropped segment; each segment of the transcripts is in one row
    [
        ("label_id", pa.string()),  # hash of model, recording, channel and segments: the same in every selection
        ("segment_indices", pa.list_(pa.int32())),  # ascending; several where neighbours are merged to one label
        # Of merged segments: signals are null, steps is the largest, confidence the mean over their characters.
        *(TRANSCRIPT.field(name) for name in _OF_SEGMENT),
        ("speaker", pa.string()),  # of the metadata; null: unknown
        ("expected_wer", pa.float32()),  # in [0, 1]; null where nothing says it
        ("kept", pa.bool_()),
        ("reason", pa.string()),  # why it is dropped; null where it is kept
        ("split", pa.string()),  # train, dev or test; null where it is dropped
        ("policy", pa.string()),  # hash of what decided
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
        # Number of its part-*.parquet, fixed in the plan, so that one part can be replaced alone. Null: an earlier plan
        # has this recording, and the result stands at its place there.
        ("part", pa.int32()),
        ("earlier_unit", pa.string()),  # where part is null: the unit with the result before this one,
        ("earlier_index", pa.int32()),  # and the index of the recording in it
        ("content", pa.int64()),  # hash of the fields below; a later listing that gives another one has changed
        ("expected_seconds", pa.float32()),  # declared, or estimated from its bytes; 0 where it will not be read
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
        ("missing_bytes", pa.int64()),
    ]
)


_COUNTS = ("hits", "substitutions", "deletions", "insertions")
EVALUATED = pa.schema(  # one row per recording of an evaluated set, stored below evaluations/date=/set=/language=/
    [
        ("date", pa.string()),  # of the evaluation, UTC, YYYY-MM-DD
        ("set", pa.string()),
        ("language", pa.string()),  # "unknown" where the source does not say
        ("evaluation", pa.string()),  # id of the evaluation: name, run and the beginning of config_hash
        ("evaluated_at", pa.timestamp("s", "UTC")),
        ("model", pa.string()),  # name@hash of the weights
        ("revision", pa.string()),
        ("fingerprint", pa.string()),  # of the evaluated output
        ("config_hash", pa.string()),  # of the settings that influence the figures
        ("code_version", pa.string()),
        ("hardware", pa.string()),
        ("normaliser", pa.string()),  # name/version, then the library that it uses and its version
        ("recording_id", pa.string()),
        ("speaker", pa.string()),  # null: unknown
        ("seconds", pa.float64()),  # of audio; null: unknown
        ("snr_db", pa.float32()),  # null: unknown
        ("slices", pa.map_(pa.string(), pa.string())),  # the metadata that the setting `slices` names; null: unknown
        ("status", pa.string()),  # transcribed | dead_letter | missing
        ("reason", pa.string()),  # of a dead letter, or why some of a transcribed recording was not heard
        ("confidence", pa.float32()),
        ("steps", pa.float32()),  # denoising steps, mean over the segments
        ("reference", pa.string()),  # null: the source has none, so nothing is counted
        ("hypothesis", pa.string()),  # "" if there is none
        ("reference_normal", pa.string()),  # normalised text: what was counted
        ("hypothesis_normal", pa.string()),
        *[(f"word_{name}", pa.int32()) for name in _COUNTS],
        *[(f"char_{name}", pa.int32()) for name in _COUNTS],
        *[(f"merged_{name}", pa.int32()) for name in _COUNTS],  # words; a compound may be written apart
        ("audio", pa.string()),  # address of the audio, for a browser or a person
    ]
)


def to_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table with exactly `schema`: all columns, typed, in order.

    Raises KeyError if a row lacks a column or has one that is not in the schema.
    """
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row in rows:
        if extra := set(row) - set(columns):
            raise KeyError(f"columns not in the schema: {sorted(extra)}")
        for name in schema.names:
            columns[name].append(row[name])
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows that an earlier version wrote, with exactly `schema`: columns and fields that were added since are null.

    Raises ValueError, which names the first of them, if the table has columns or fields that are not in `schema`, or of
    another type.
    """
    if table.schema.equals(schema):
        return table
    if name := _lost(pa.struct(list(table.schema)), pa.struct(list(schema))):
        raise ValueError(f"{name} is another column than in schema version {SCHEMA_VERSION}")
    there = set(table.schema.names)
    columns = [table[f.name].cast(f.type) if f.name in there else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(columns, schema=schema)


def _lost(old: pa.DataType, new: pa.DataType | None, name: str = "") -> str | None:
    """The name of the first field of `old` that `new` does not have with its type; None: `new` only adds fields."""
    if new is not None and pa.types.is_struct(old) and pa.types.is_struct(new):
        types = {field.name: field.type for field in new}
        inner = (_lost(field.type, types.get(field.name), f"{name}.{field.name}".strip(".")) for field in old)
        return next((found for found in inner if found), None)
    if new is not None and pa.types.is_list(old) and pa.types.is_list(new):
        return _lost(old.value_type, new.value_type, name)
    return None if old == new else name


SPAN = [  # where a segment is
    ("recording_index", pa.int32()),  # within the unit
    ("segment_index", pa.int32()),
    ("channel", pa.int32()),  # null: the mean of all channels
    ("start_sample", pa.int64()),
    ("end_sample", pa.int64()),
    ("overlaps_previous", pa.bool_()),
]
SEGMENT = pa.struct(
    [
        *SPAN,
        ("key", pa.string()),
        ("language", pa.string()),
        ("pcm_offset", pa.int64()),  # bytes: where its samples begin in the row's `pcm`
    ]
)
RESULT = pa.struct(
    [
        *SPAN,
        ("text", pa.string()),  # null: no answer; `error` says why
        ("error", pa.string()),
        ("language", pa.string()),  # of the recording, where it was detected; null: the source says it, or nobody
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
        ("tracks_left_out", pa.int32()),
        ("bytes_left_out", pa.int64()),
    ]
)

DAMAGE = pa.struct(  # a stretch of a recording that is not heard
    [("recording_index", pa.int32()), *PROBLEM, ("lost_samples", pa.int64())]
)

UNIT_LEFT = pa.schema([("unit_id", pa.string()), ("place", PLACE)])  # one row: one unit that is not committed
_PIECE = [  # one row: a unit, or one bounded piece of a unit with much audio
    *UNIT_LEFT,
    ("piece", pa.int32()),  # number of the piece, from 0
    ("start", POSITION),  # where this piece begins
    ("next", POSITION),  # where the next piece begins; null: this is the last piece
    ("samples", pa.int64()),  # length of this piece at 16 kHz
    ("recordings", pa.list_(DECODED_RECORDING)),  # the recordings that end in this piece
    ("damages", pa.list_(DAMAGE)),  # within this piece
    ("suspect", pa.bool_()),  # the unit crashed its process before: stages skip it, it runs alone later
    ("saved", pa.bool_()),  # an earlier run saved this piece (output/pieces.py): stages skip it
]
_AUDIO = [
    ("segments", pa.list_(SEGMENT)),
    ("pcm", pa.large_binary()),
    # Samples of the first segment of a recording that began in an earlier piece: the model detects the language there,
    # so that all pieces find the same one. Null: the recording begins here, or its language need not be detected.
    ("opening", pa.large_binary()),
]
AUDIO_COLUMNS = [name for name, _ in _AUDIO]  # they end in the last replica
PIECE_DECODED = pa.schema([*_PIECE, *_AUDIO])
_RESULTS = ("results", pa.list_(RESULT))
PIECE_RECOGNISED = pa.schema([*_PIECE, _RESULTS])
PIECE_HALF = pa.schema([*_PIECE, *_AUDIO, _RESULTS])  # recognised by the first of two models, on its way to the second


def piece_row(unit_id: str, place: Place, piece: int, start: Position, following: Position | None) -> dict[str, Any]:
    """A row of PIECE_DECODED without audio. following: where the next piece begins; None: this is the last piece."""
    return {
        "unit_id": unit_id,
        "place": asdict(place),
        "piece": piece,
        "start": asdict(start),
        "next": None if following is None else asdict(following),
        "samples": 0,
        "recordings": [],
        "damages": [],
        "suspect": False,
        "saved": False,
        "segments": [],
        "pcm": b"",
        "opening": None,
    }


def recordings_of(pieces: Iterable[Mapping[str, Any]]) -> list[DecodedRecording]:
    """The recordings of a unit in order, from the rows of all its pieces. `damage` is the longest of each."""
    rows: dict[int, dict[str, Any]] = {}
    damages: dict[int, list[dict[str, Any]]] = {}
    for piece in pieces:
        rows |= {row["recording_index"]: dict(row) for row in piece["recordings"]}
        for damage in piece["damages"]:
            damages.setdefault(damage["recording_index"], []).append(damage)
    recordings = []
    for index in range(len(rows)):
        known = {name: value for name, value in rows[index].items() if name != "recording_index"}
        known["problem"] = known["problem"] and Problem(**known["problem"])
        if index in damages:
            longest = max(damages[index], key=itemgetter("lost_samples"))
            known["damage"] = Problem(longest["reason"], longest["stage"], longest["error"])
            known["lost_samples"] = sum(one["lost_samples"] for one in damages[index])
        recordings.append(DecodedRecording(**known))
    return recordings


def pcm_of(pcm: memoryview, segment: Mapping[str, Any]) -> memoryview:
    """The samples of one segment: int16 little endian, a view of its row's `pcm`."""
    start = segment["pcm_offset"]
    samples = segment["end_sample"] - segment["start_sample"]
    return pcm[start : start + BYTES_PER_SAMPLE * samples]
