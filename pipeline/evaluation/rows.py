"""From a published output to one row per expected recording: reference, hypothesis, and what the source says of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from pipeline.config import ConfigError
from pipeline.output.tables import joined
from pipeline.planning.plan import plan_names, read_plan
from pipeline.schemas import RecordingRef
from pipeline.storage.base import Storage

SEGMENT_COLUMNS = [
    *("recording_id", "segment_index", "channel", "start_ms", "end_ms", "language", "text", "confidence", "steps"),
    *("reference", "metadata", "model", "fingerprint"),
]
LETTER_COLUMNS = ["recording_id", "language", "reason", "seconds", "reference", "metadata", "fingerprint"]
SPEAKER_NAMES = (
    *("speaker", "speaker_id", "client_id", "spk_id", "spk", "spkid", "speakerid", "speaker_name"),
    *("talker", "talker_id", "reader", "reader_id"),
)
SNR_NAMES = ("snr", "snr_db", "signal_to_noise", "signal_to_noise_ratio")
_INNER = ("custom", "metadata", "extra")  # of Lhotse cuts and of manifests that were made from others
_UNKNOWN = ("", "none", "null", "nan", "n/a", "unknown", "-")


@dataclass(slots=True)
class Heard:
    """One recording of a set. Texts as the source and the model wrote them."""

    recording_id: str
    language: str
    status: str  # transcribed | dead_letter | missing
    reason: str | None = None
    reference: str | None = None
    hypothesis: str = ""
    speaker: str | None = None
    snr_db: float | None = None
    seconds: float | None = None  # declared by the source, else where the last segment ends
    confidence: float | None = None  # mean over the characters of the segments
    steps: float | None = None  # mean over the segments
    audio: str = ""
    model: str | None = None
    fingerprint: str | None = None


@dataclass(slots=True)
class _Found:
    segments: list[dict[str, Any]] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)


def heard(storage: Storage) -> list[Heard]:
    """Every recording of the plan, in its order, whether it has a transcript, a dead letter or nothing.

    A recording that is there twice has its second occurrence as a dead letter of reason duplicate_id, under a name of
    its own. Memory: the texts of the set. Raises ConfigError where nothing is planned or published at `storage`.
    """
    if not plan_names(storage):
        raise ConfigError(f"{storage.uri}: no output of jobs.transcribe: nothing is planned there")
    found: dict[str, _Found] = {}
    for row in _rows(storage, "transcripts", SEGMENT_COLUMNS):
        found.setdefault(row["recording_id"], _Found()).segments.append(row)
    for row in _rows(storage, "dead_letters", LETTER_COLUMNS):
        found.setdefault(row["recording_id"], _Found()).letters.append(row)
    return [_heard(ref, found.setdefault(ref.recording_id, _Found())) for ref in _refs(storage)]


def _heard(ref: RecordingRef, found: _Found) -> Heard:
    if ref.problem == "duplicate_id":
        letter = next((row for row in found.letters if row["reason"] == "duplicate_id"), {})
        name = f"{ref.recording_id} ({ref.source_uri}{'!' + ref.source_member if ref.source_member else ''})"
        return _known(ref, letter, name, "dead_letter", reason="duplicate_id")
    if found.segments:
        return _transcribed(ref, found.segments)
    letters = [row for row in found.letters if row["reason"] != "duplicate_id"]
    if letters:
        return _known(ref, letters[0], ref.recording_id, "dead_letter", reason=letters[0]["reason"])
    return _known(ref, {}, ref.recording_id, "missing")


def _transcribed(ref: RecordingRef, segments: list[dict[str, Any]]) -> Heard:
    segments.sort(key=lambda row: (row["channel"] or 0, row["segment_index"]))
    row = _known(ref, segments[0], ref.recording_id, "transcribed")
    row.hypothesis, row.confidence = joined((one["text"], one["confidence"]) for one in segments)
    steps = [one["steps"] for one in segments if one["steps"]]
    row.steps = sum(steps) / len(steps) if steps else None
    if row.seconds is None:
        row.seconds = max(one["end_ms"] for one in segments) / 1000
    return row


def _known(ref: RecordingRef, row: dict[str, Any], name: str, status: str, *, reason: str | None = None) -> Heard:
    """What the source says; sidecars were read with the audio only, so the published row goes before the plan."""
    metadata = row.get("metadata") or ref.metadata
    reference = row.get("reference")
    return Heard(
        recording_id=name,
        language=row.get("language") or ref.language or "unknown",
        status=status,
        reason=reason,
        reference=ref.reference if reference is None else reference,
        speaker=speaker_of(metadata),
        snr_db=snr_of(metadata),
        seconds=ref.seconds if ref.seconds is not None else row.get("seconds"),
        audio=f"{ref.source_uri}!{ref.source_member}" if ref.source_member else ref.source_uri,
        model=row.get("model"),
        fingerprint=row.get("fingerprint"),
    )


def _refs(storage: Storage) -> Iterator[RecordingRef]:
    """Of the plan itself: rounds of retries hold the same recordings again."""
    for planned in read_plan(storage):
        yield from planned.unit.refs


def _rows(storage: Storage, table: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    keys = [key for key in storage.list(f"{table}/") if key.endswith(".parquet")]
    if not keys:
        raise ConfigError(f"{storage.uri}: nothing is published there yet: jobs.transcribe publish=true does it")
    for key in keys:
        with storage.open(key) as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()


def speaker_of(metadata: str | None) -> str | None:
    """The speaker's name or number as text, None where it is unknown. metadata: JSON text as in the transcripts."""
    for value in _values(metadata, SPEAKER_NAMES):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 84.0: a number that went through a table with gaps
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip().lower() not in _UNKNOWN:
            return str(value).strip()
    return None


def snr_of(metadata: str | None) -> float | None:
    """The signal-to-noise ratio in dB, None where it is unknown or no finite number ("12.5 dB" is one)."""
    for value in _values(metadata, SNR_NAMES):
        try:
            number = float(value.strip().lower().removesuffix("db") if isinstance(value, str) else value)
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number) and not isinstance(value, bool):
            return number
    return None


def _values(metadata: str | None, known: tuple[str, ...]) -> list[Any]:
    """What stands under one of the known names (case and hyphens aside), in their order; then one level deeper."""
    try:
        columns = json.loads(metadata) if metadata else None
    except (ValueError, RecursionError):
        return []
    if not isinstance(columns, dict):
        return []
    levels = [columns, *(columns[name] for name in _INNER if isinstance(columns.get(name), dict))]
    folded = [{key.lower().replace("-", "_"): value for key, value in level.items()} for level in levels]
    return [level[name] for level in folded for name in known if name in level]
