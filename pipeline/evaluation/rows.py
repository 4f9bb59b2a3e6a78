"""From a published output to one outcome per expected recording: reference, hypothesis, speaker, noise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import ConfigError, public
from pipeline.output.tables import joined, published_rows
from pipeline.planning.plan import gone_recordings, plan_names, read_plan
from pipeline.planning.planned import key_of_ref
from pipeline.schemas import RecordingRef
from pipeline.storage.base import Storage

SEGMENT_COLUMNS = [
    *("recording_id", "segment_index", "channel", "start_ms", "end_ms", "language", "text", "confidence", "steps"),
    *("words", "problem", "reference", "metadata", "model", "fingerprint"),
]
LETTER_COLUMNS = ["recording_id", "language", "reason", "seconds", "reference", "metadata", "fingerprint"]
SPEAKER_NAMES = (
    *("speaker", "speaker_id", "client_id", "spk_id", "spk", "spkid", "speakerid", "speaker_name"),
    *("talker", "talker_id", "reader", "reader_id"),
)
SLICE_NAMES = {"accent": ("accent", "accents"), "domain": ("domain", "sentence_domain")}  # Common Voice has the second
SNR_NAMES = ("snr", "snr_db", "signal_to_noise", "signal_to_noise_ratio")
_INNER = ("custom", "metadata", "extra")  # in Lhotse cuts and in manifests that were made from others
_UNKNOWN = ("", "none", "null", "nan", "n/a", "unknown", "-")


@dataclass(slots=True)
class Outcome:
    """What became of one recording of a set. Texts are as the source and the model wrote them, not normalised."""

    recording_id: str
    language: str
    status: str  # transcribed | dead_letter | missing
    reason: str | None = None  # of a dead letter; of a transcript: why some of the recording was not heard
    reference: str | None = None
    hypothesis: str = ""
    speaker: str | None = None
    snr_db: float | None = None
    metadata: str | None = None  # JSON text as in the transcripts
    seconds: float | None = None  # declared by the source, else where the last segment ends
    confidence: float | None = None  # mean over the characters of the segments
    steps: float | None = None  # mean over the segments
    words: list[tuple[str, float]] = field(default_factory=list)  # recognised, with their confidence, in order
    audio: str = ""
    model: str | None = None
    fingerprint: str | None = None


@dataclass(slots=True)
class _Published:
    """The rows of one recording in the published tables."""

    segments: list[dict[str, Any]] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)


def outcomes(storage: Storage) -> list[Outcome]:
    """Every recording of all plans, in their order: with a transcript, with a dead letter, or missing.

    One that the source has lost before anything was recognised in it is not expected.

    Where a recording_id occurs twice, the second one is a dead letter of reason duplicate_id under a name of its own.
    Needs memory for the texts of the set. Raises ConfigError where `storage` has no plan or nothing is published.
    """
    names = plan_names(storage)
    if not names:
        raise ConfigError(f"{storage.uri}: no output of jobs.transcribe: nothing is planned there")
    for table in ("transcripts", "dead_letters"):
        if not any(key.endswith(".parquet") for key in storage.list(f"{table}/")):
            raise ConfigError(f"{storage.uri}: nothing is published there yet: jobs.transcribe publish=true publishes")
    published: dict[str, _Published] = {}
    for row in published_rows(storage, "transcripts", SEGMENT_COLUMNS):
        published.setdefault(row["recording_id"], _Published()).segments.append(row)
    for row in published_rows(storage, "dead_letters", LETTER_COLUMNS):
        published.setdefault(row["recording_id"], _Published()).letters.append(row)
    gone = gone_recordings(storage, names).keys() - published.keys()
    refs = (ref for ref in _refs(storage, names) if ref.recording_id not in gone)
    return [_outcome(ref, published.setdefault(ref.recording_id, _Published())) for ref in refs]


def _outcome(ref: RecordingRef, published: _Published) -> Outcome:
    if ref.problem == "duplicate_id":
        letter = next((row for row in published.letters if row["reason"] == "duplicate_id"), {})
        name = f"{ref.recording_id} ({public(ref.source_uri)}{'!' + ref.source_member if ref.source_member else ''})"
        return _known(ref, letter, name, "dead_letter", reason="duplicate_id")
    if published.segments:
        return _transcribed(ref, published.segments)
    letters = [row for row in published.letters if row["reason"] != "duplicate_id"]
    if letters:
        return _known(ref, letters[0], ref.recording_id, "dead_letter", reason=letters[0]["reason"])
    return _known(ref, {}, ref.recording_id, "missing")


def _transcribed(ref: RecordingRef, segments: list[dict[str, Any]]) -> Outcome:
    segments.sort(key=lambda row: (row["channel"] or 0, row["segment_index"]))
    row = _known(ref, segments[0], ref.recording_id, "transcribed", reason=segments[0]["problem"])
    row.hypothesis, row.confidence = joined((one["text"], one["confidence"]) for one in segments)
    row.words = [
        (word["text"], word["confidence"])
        for one in segments
        for word in one["words"] or ()
        if word["confidence"] is not None
    ]
    steps = [one["steps"] for one in segments if one["steps"]]
    row.steps = sum(steps) / len(steps) if steps else None
    if row.seconds is None:
        row.seconds = max(one["end_ms"] for one in segments) / 1000
    return row


def _known(ref: RecordingRef, row: dict[str, Any], name: str, status: str, *, reason: str | None = None) -> Outcome:
    """The outcome without a transcript. The published row has priority: sidecars are read with the audio only."""
    metadata = row.get("metadata") or ref.metadata
    reference = row.get("reference")
    return Outcome(
        recording_id=name,
        language=row.get("language") or ref.language or "unknown",
        status=status,
        reason=reason,
        reference=ref.reference if reference is None else reference,
        speaker=speaker_of(metadata),
        snr_db=snr_of(metadata),
        metadata=metadata,
        seconds=ref.seconds if ref.seconds is not None else row.get("seconds"),
        audio=public(ref.source_uri) + (f"!{ref.source_member}" if ref.source_member else ""),
        model=row.get("model"),
        fingerprint=row.get("fingerprint"),
    )


def _refs(storage: Storage, names: Iterable[str]) -> Iterable[RecordingRef]:
    """The recordings of the plans `names`, each as the latest of them has it: rounds have some of them again."""
    latest: dict[bytes, RecordingRef] = {}
    for name in names:
        for planned in read_plan(storage, name):
            latest |= {key_of_ref(ref): ref for ref in planned.unit.refs}
    return latest.values()


def speaker_of(metadata: str | None) -> str | None:
    """Name or number of the speaker as text, None where unknown. metadata: JSON text as in the transcripts."""
    for value in _values(metadata, SPEAKER_NAMES):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 84.0: a table with gaps made a float of a whole number
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip().lower() not in _UNKNOWN:
            return str(value).strip()
    return None


def snr_of(metadata: str | None) -> float | None:
    """The signal-to-noise ratio in dB, None where it is unknown or not a finite number ("12.5 dB" is a number)."""
    for value in _values(metadata, SNR_NAMES):
        try:
            number = float(value.strip().lower().removesuffix("db") if isinstance(value, str) else value)
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number) and not isinstance(value, bool):
            return number
    return None


def slices_of(metadata: str | None, names: Sequence[str]) -> list[tuple[str, str]]:
    """The columns of these names that have a value, with it, each name once. Ignores case and hyphens."""
    found = []
    for name in dict.fromkeys(names):
        column = name.lower().replace("-", "_")
        for value in _values(metadata, SLICE_NAMES.get(column, (column,))):
            if isinstance(value, str | int | float) and str(value).strip().lower() not in _UNKNOWN:
                found.append((name, str(value).strip()))
                break
    return found


def _values(metadata: str | None, known: tuple[str, ...]) -> list[Any]:
    """The values under the known names in their order, then those one level deeper. Ignores case and hyphens."""
    try:
        columns = json.loads(metadata) if metadata else None
    except (ValueError, RecursionError):
        return []
    if not isinstance(columns, dict):
        return []
    levels = [columns, *(columns[name] for name in _INNER if isinstance(columns.get(name), dict))]
    folded = [{key.lower().replace("-", "_"): value for key, value in level.items()} for level in levels]
    return [level[name] for level in folded for name in known if name in level]
