"""The decode stage: reads the recordings of a unit, decodes them and cuts them into segments, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audio import decode
from pipeline.audio.pcm import to_pcm
from pipeline.audio.segment import Segmenter, Window, piece_end
from pipeline.config import RunConfig
from pipeline.planning.plan import PlanReader
from pipeline.schemas import (
    PIECE_DECODED,
    SAMPLE_RATE,
    START,
    About,
    BadAudio,
    BadRecording,
    DecodedRecording,
    Place,
    Position,
    Problem,
    Recording,
    RecordingRef,
    WorkUnit,
    piece_row,
    to_table,
)
from pipeline.sources.formats import read_recording
from pipeline.storage.base import apply, open_storage


@dataclass(slots=True)
class Piece:
    """Audio of one unit from `start` on. A unit with little audio is one piece.

    recordings: those that end in this piece, by their index in the unit. segments: the columns of schemas.SEGMENT.
    pcm: the samples of all segments, int16; `schemas.pcm_of` cuts one out.
    """

    start: Position
    next: Position | None = None  # None: this is the last piece
    samples: int = 0
    recordings: dict[int, DecodedRecording] = field(default_factory=dict)
    segments: list[dict[str, Any]] = field(default_factory=list)
    pcm: bytearray = field(default_factory=bytearray)

    def add(self, excerpt: _Excerpt) -> None:
        """Append audio of one recording."""
        self.samples += excerpt.samples
        for segment, samples in excerpt.segments:
            self.segments.append(segment | {"pcm_offset": len(self.pcm)})
            self.pcm += to_pcm(samples)
        excerpt.segments = []  # the decoded samples need not wait for the next excerpt
        if excerpt.ended is not None:
            self.recordings[excerpt.recording] = excerpt.ended


@dataclass(slots=True)
class _Excerpt:
    """Audio of one recording that belongs to one piece. ended: None where the recording goes on in the next piece."""

    recording: int
    next: Position
    samples: int = 0
    segments: list[tuple[dict[str, Any], np.ndarray]] = field(default_factory=list)
    ended: DecodedRecording | None = None


class DecodeStage:
    """Rows with `unit_id` and `place` become rows of schemas.PIECE_DECODED; the references are read from the plan."""

    def __init__(self, config: RunConfig, about: About) -> None:
        """Raises ConfigError where the output cannot be reached."""
        self.storage = open_storage(config.output.uri, create=False, config=config.storage)
        self.decoder = Decoder(config, about)
        self.plans = PlanReader(self.storage)

    def __call__(self, units: pa.Table) -> pa.Table:
        """One piece of each unit: the piece that begins at column `start`, or without that column the first one."""
        starts = units["start"].to_pylist() if "start" in units.schema.names else [None] * len(units)
        rows = []
        for unit_id, place, start in zip(units["unit_id"].to_pylist(), units["place"].to_pylist(), starts, strict=True):
            begin = START if start is None else Position(**start)
            rows.append(next(self.pieces(unit_id, Place(**place), begin)))
        return to_table(rows, PIECE_DECODED)

    def pieces(self, unit_id: str, place: Place, start: Position = START, number: int = 0) -> Iterator[dict[str, Any]]:
        """Rows of PIECE_DECODED from piece `number` on, which begins at `start`, to the end of the unit."""
        for count, piece in enumerate(self.decoder.pieces(self.plans.unit(unit_id, place), start), start=number):
            row = piece_row(unit_id, place, count, piece.start, piece.next)
            yield row | {
                "samples": piece.samples,
                "recordings": [
                    asdict(recording) | {"recording_index": index} for index, recording in piece.recordings.items()
                ],
                "segments": piece.segments,
                "pcm": piece.pcm,
            }


class Decoder:
    """Decodes units, whose references are known, without an output.

    What is wrong with one recording becomes its `problem`. Anything else is raised and ends the job.
    """

    def __init__(self, config: RunConfig, about: About) -> None:
        apply(config.storage)
        self.max_seconds = config.compute.max_recording_seconds
        self.max_samples = int(self.max_seconds * SAMPLE_RATE)
        self.piece_samples = config.segment.piece_seconds * SAMPLE_RATE
        self.split = config.source.channels == "split"
        self.languages = about.languages
        longest = min(config.segment.max_seconds, about.window_seconds)
        self.segmenter = Segmenter(config.segment, max_seconds=longest)

    def pieces(self, unit: WorkUnit, start: Position = START) -> Iterator[Piece]:
        """The pieces of a unit from `start` on.

        A piece ends once it holds segment.piece_seconds of audio. Inside a longer recording it ends at a pause shortly
        before that. Its content depends on the unit and on where it begins, and on nothing else.
        """
        piece, position = Piece(start), start
        while position.recording < len(unit.refs):
            for excerpt in self._excerpts(unit, position):
                piece.add(excerpt)
                position = excerpt.next
                full = excerpt.ended is None or piece.samples >= self.piece_samples
                if full and position.recording < len(unit.refs):
                    piece.next = position
                    yield piece
                    piece = Piece(position)
        yield piece

    def _excerpts(self, unit: WorkUnit, at: Position) -> Iterator[_Excerpt]:
        """One recording from `at` on."""
        ref, after = unit.refs[at.recording], Position(at.recording + 1)
        known = DecodedRecording(language=ref.language, reference=ref.reference, metadata=ref.metadata)
        try:
            if ref.problem:
                problem = Problem(ref.problem, "list", ref.problem_detail or "")
                yield _Excerpt(at.recording, after, ended=replace(known, problem=problem))
                return
            read = read_recording(ref)
            known = DecodedRecording(language=read.language, reference=read.reference, metadata=read.metadata)
            try:
                if read.language is not None and read.language not in self.languages:
                    raise BadRecording("unsupported_language", f"the model does not know {read.language!r}")
                yield from self._channels(ref, read, known, at)
            finally:
                if not isinstance(read.audio, bytes):
                    read.audio.close()
        except BadRecording as err:
            stage = "decode" if isinstance(err, BadAudio) else "read"
            problem = Problem(err.reason, stage, err.detail)
            yield _Excerpt(at.recording, after, ended=replace(known, problem=problem))

    def _channels(
        self, ref: RecordingRef, read: Recording, known: DecodedRecording, at: Position
    ) -> Iterator[_Excerpt]:
        """One channel after the other: every channel where they are split, else the chosen one or the mean of all."""
        name = ref.source_member or ref.source_uri
        channels: list[int | None] = [ref.channel]
        if self.split and ref.channel is None:
            channels = list(range(decode.channels(read.audio, name=name)))
        while at.channel < len(channels):
            last = at.channel == len(channels) - 1
            for excerpt in self._channel(ref, read, at, channels[at.channel]):
                at = excerpt.next
                if last and not at.sample:
                    excerpt.next, excerpt.ended = Position(at.recording + 1), replace(known, samples=at.before)
                yield excerpt

    def _channel(self, ref: RecordingRef, read: Recording, at: Position, channel: int | None) -> Iterator[_Excerpt]:
        """The rest of one channel. After its end, the next position has sample 0."""
        blocks: list[np.ndarray] = []
        total = 0
        name = ref.source_member or ref.source_uri
        stream = decode.stream(
            read.audio,
            name=name,
            max_seconds=self.max_seconds,
            channel=channel,
            start_ms=(ref.start_ms or 0) + at.sample * 1000 // SAMPLE_RATE if ref.start_ms or at.sample else None,
            end_ms=ref.end_ms,
        )
        with closing(stream):
            for block in stream:
                blocks.append(block)
                total += len(block)
                if at.sample + total > self.max_samples:
                    raise BadAudio("too_long", f"{name}: more than {self.max_seconds:g} s")
                if total > self.piece_samples:
                    samples = np.concatenate(blocks)
                    windows = self.segmenter(samples[: self.piece_samples])
                    final, end, overlaps = piece_end(windows, self.piece_samples, self.segmenter.config)
                    segments = _segments(ref, read, at, channel, samples, windows[:final])
                    at = replace(at, sample=at.sample + end, segment=at.segment + final, overlaps=overlaps)
                    blocks, total = [samples[end:].copy()], len(samples) - end
                    yield _Excerpt(at.recording, at, end, segments)
                    del samples, segments
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        windows = self.segmenter(samples)
        segments = _segments(ref, read, at, channel, samples, windows)
        after = replace(
            at,
            channel=at.channel + 1,
            sample=0,
            segment=at.segment + len(windows),
            before=at.before + at.sample + total,
            overlaps=False,
        )
        yield _Excerpt(at.recording, after, total, segments)


def described(ref: RecordingRef) -> DecodedRecording:
    """What the source says about a recording, its companion files included. Nothing is decoded. Raises BadRecording."""
    read = read_recording(ref)
    if not isinstance(read.audio, bytes):
        read.audio.close()
    return DecodedRecording(language=read.language, reference=read.reference, metadata=read.metadata)


def _segments(
    ref: RecordingRef,
    read: Recording,
    at: Position,
    channel: int | None,
    samples: np.ndarray,
    windows: list[Window],
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """The segments with their samples, which are views. `samples` begin at `at`; times are those of the channel."""
    return [
        (
            {
                "recording_index": at.recording,
                "segment_index": at.segment + number,
                "channel": channel,
                "start_sample": at.sample + window.start_sample,
                "end_sample": at.sample + window.end_sample,
                "overlaps_previous": window.overlaps_previous or (at.overlaps and number == 0),
                "key": f"{ref.recording_id}#{at.segment + number}#{at.sample + window.start_sample}",
                "language": read.language,
            },
            samples[window.start_sample : window.end_sample],
        )
        for number, window in enumerate(windows)
    ]
