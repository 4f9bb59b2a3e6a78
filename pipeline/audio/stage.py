"""The decode stage: the recordings of a unit are read, decoded and cut into segments, in parts of bounded length."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audio import decode as audio
from pipeline.audio.segment import Segmenter, Window, part_end
from pipeline.config import RunConfig
from pipeline.schemas import (
    SAMPLE_RATE,
    UNIT_DECODED,
    BadAudio,
    BadRecording,
    Recording,
    RecordingRef,
    WorkUnit,
    to_table,
    unit_from_json,
)
from pipeline.sources import formats as sources
from pipeline.storage.base import apply


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a recording is no transcript."""

    reason: str  # of schemas.REASONS
    stage: str  # list, read, decode, model
    error: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of a recording besides its segments.

    samples: at 16 kHz, of all channels that are heard by themselves; None where it could not be decoded.
    """

    samples: int | None = None
    language: str | None = None
    reference: str | None = None
    metadata: str | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a unit a part begins: everything that the rest of the unit depends on."""

    recording: int = 0  # index in the unit
    channel: int = 0  # how many of its channels are done
    sample: int = 0  # at 16 kHz, a whole number of milliseconds
    segment: int = 0  # index of its next segment
    before: int = 0  # samples in the channels that are done
    overlaps: bool = False  # the next window begins before the end of the one before it

    def to_json(self) -> str:
        return json.dumps(asdict(self))


START = Position()


def position_from_json(text: str) -> Position:
    """What `Position.to_json` wrote."""
    return Position(**json.loads(text))


@dataclass(slots=True)
class _Piece:
    """Audio of one recording that belongs to one part. heard: None where the recording goes on in the next part."""

    next: Position
    samples: int = 0
    segments: list[dict[str, Any]] = field(default_factory=list)
    heard: Heard | None = None


class Decoder:
    """Rows with a column `unit` (JSON) become rows of schemas.UNIT_DECODED.

    What is wrong with one recording becomes its `problem`; anything else is raised and ends the job.
    """

    def __init__(self, config: RunConfig, *, window_seconds: float, languages: Collection[str]) -> None:
        apply(config.storage)
        self.max_samples = int(config.compute.max_recording_seconds * SAMPLE_RATE)
        self.max_seconds = config.compute.max_recording_seconds
        self.part_samples = config.segment.part_seconds * SAMPLE_RATE
        self.split = config.source.channels == "split"
        self.languages = languages
        self.segmenter = Segmenter(config.segment, max_seconds=min(config.segment.max_seconds, window_seconds))

    def __call__(self, units: pa.Table) -> pa.Table:
        """One part of each unit: the one that begins at `start` (JSON), its first where there is no such column."""
        starts = units["start"].to_pylist() if "start" in units.schema.names else [START.to_json()] * len(units)
        pairs = zip(units["unit"].to_pylist(), starts, strict=True)
        return to_table([next(self.parts(unit, position_from_json(start))) for unit, start in pairs], UNIT_DECODED)

    def parts(self, text: str, start: Position = START, number: int = 0) -> Iterator[dict[str, Any]]:
        """Rows of UNIT_DECODED from part `number` on, which begins at `start`: together all recordings of the unit.

        A part ends once it holds segment.part_seconds of audio, or where a recording that goes on longer has a pause
        shortly before that. Its content depends on the unit and on where it begins, on nothing else.
        """
        unit = unit_from_json(text)
        held, position = _Row(text, unit.unit_id, start, number), start
        while position.recording < len(unit.refs):
            for piece in self._pieces(unit, position):
                held.add(position.recording, piece)
                position = piece.next
                full = piece.heard is None or held.samples >= self.part_samples
                if full and position.recording < len(unit.refs):
                    yield held.row(position)
                    number += 1
                    held = _Row(text, unit.unit_id, position, number)
        yield held.row(None)

    def _pieces(self, unit: WorkUnit, at: Position) -> Iterator[_Piece]:
        """One recording from `at` on."""
        ref, after = unit.refs[at.recording], Position(at.recording + 1)
        known = Heard(language=ref.language, reference=ref.reference, metadata=ref.metadata)
        try:
            if ref.problem:
                yield _Piece(
                    after, heard=replace(known, problem=Problem(ref.problem, "list", ref.problem_detail or ""))
                )
                return
            read = sources.read_recording(ref)
            known = Heard(language=read.language, reference=read.reference, metadata=read.metadata)
            try:
                if read.language is not None and read.language not in self.languages:
                    raise BadRecording("unsupported_language", f"the model does not know {read.language!r}")
                yield from self._channels(ref, read, known, at)
            finally:
                if not isinstance(read.audio, bytes):
                    read.audio.close()
        except BadRecording as err:
            stage = "decode" if isinstance(err, BadAudio) else "read"
            yield _Piece(after, heard=replace(known, problem=Problem(err.reason, stage, err.detail)))

    def _channels(self, ref: RecordingRef, read: Recording, known: Heard, at: Position) -> Iterator[_Piece]:
        """One channel after the other: all of them where they are split, else the one that is asked for or the mean."""
        name = ref.source_member or ref.source_uri
        channels: list[int | None] = [ref.channel]
        if self.split and ref.channel is None:
            channels = list(range(audio.channels(read.audio, name=name)))
        while at.channel < len(channels):
            last = at.channel == len(channels) - 1
            for piece in self._channel(ref, read, at, channels[at.channel]):
                at = piece.next
                if last and not at.sample:
                    piece.next, piece.heard = Position(at.recording + 1), replace(known, samples=at.before)
                yield piece

    def _channel(self, ref: RecordingRef, read: Recording, at: Position, channel: int | None) -> Iterator[_Piece]:
        """The rest of one channel; after its end, the next position has sample 0."""
        held: list[np.ndarray] = []
        total = 0
        name = ref.source_member or ref.source_uri
        blocks = audio.stream(
            read.audio,
            name=name,
            max_seconds=self.max_seconds,
            channel=channel,
            start_ms=(ref.start_ms or 0) + at.sample * 1000 // SAMPLE_RATE if ref.start_ms or at.sample else None,
            end_ms=ref.end_ms,
        )
        with closing(blocks):
            for block in blocks:
                held.append(block)
                total += len(block)
                if at.sample + total > self.max_samples:
                    raise BadAudio("too_long", f"{name}: more than {self.max_seconds:g} s")
                if total > self.part_samples:
                    samples = np.concatenate(held)
                    part = samples[: self.part_samples]
                    windows = self.segmenter(part)
                    kept, end, overlaps = part_end(windows, len(part), self.segmenter.config)
                    segments = self._segments(ref, read, at, channel, part, windows[:kept])
                    at = replace(at, sample=at.sample + end, segment=at.segment + kept, overlaps=overlaps)
                    held, total = [samples[end:].copy()], len(samples) - end
                    del samples, part
                    yield _Piece(at, end, segments)
        samples = held[0] if len(held) == 1 else np.concatenate(held)
        windows = self.segmenter(samples)
        segments = self._segments(ref, read, at, channel, samples, windows)
        after = replace(
            at,
            channel=at.channel + 1,
            sample=0,
            segment=at.segment + len(windows),
            before=at.before + at.sample + total,
            overlaps=False,
        )
        yield _Piece(after, total, segments)

    def _segments(
        self,
        ref: RecordingRef,
        read: Recording,
        at: Position,
        channel: int | None,
        samples: np.ndarray,
        windows: list[Window],
    ) -> list[dict[str, Any]]:
        """`samples` begin at `at`; times are those of the channel."""
        return [
            {
                "recording_index": at.recording,
                "segment_index": at.segment + number,
                "channel": channel,
                "start_sample": at.sample + window.start_sample,
                "end_sample": at.sample + window.end_sample,
                "overlaps_previous": window.overlaps_previous or (at.overlaps and number == 0),
                "key": f"{ref.recording_id}#{at.segment + number}#{at.sample + window.start_sample}",
                "language": read.language,
                "pcm": to_pcm(samples[window.start_sample : window.end_sample]),
            }
            for number, window in enumerate(windows)
        ]


class _Row:
    """A part that is being filled."""

    def __init__(self, text: str, unit_id: str, start: Position, number: int) -> None:
        self.text, self.unit_id, self.start, self.number = text, unit_id, start, number
        self.samples = 0
        self.recordings: dict[int, dict[str, Any]] = {}
        self.segments: list[dict[str, Any]] = []

    def add(self, recording: int, piece: _Piece) -> None:
        self.samples += piece.samples
        self.segments += piece.segments
        if piece.heard:
            self.recordings[recording] = asdict(piece.heard)

    def row(self, following: Position | None) -> dict[str, Any]:
        return {
            **idle_row(self.text, self.unit_id, self.number, self.start, following),
            "samples": self.samples,
            "recordings": json.dumps(self.recordings),
            "segments": self.segments,
        }


def idle_row(
    text: str, unit_id: str, number: int, start: Position, following: Position | None, **marks: bool
) -> dict[str, Any]:
    """A row of UNIT_DECODED with nothing in it; `marks`: suspect or saved, and why."""
    return {
        "unit_id": unit_id,
        "unit": text,
        "part": number,
        "start": start.to_json(),
        "next": None if following is None else following.to_json(),
        "samples": 0,
        "recordings": "{}",
        "retries": "{}",
        "suspect": False,
        "saved": False,
        "segments": [],
        **marks,
    }


def to_pcm(samples: np.ndarray) -> bytes:
    """float32 in [-1, 1] as int16 little endian; what was decoded from 16 bits comes back bit for bit."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes()
