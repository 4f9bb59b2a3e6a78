"""The decode stage: it reads the recordings of a unit, decodes them and cuts them into segments, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audio import decode
from pipeline.audio.channels import Channel, wanted_channels
from pipeline.audio.pcm import to_pcm
from pipeline.audio.segment import Segmenter, Window, piece_end
from pipeline.audio.track import Lost
from pipeline.config import RunConfig
from pipeline.planning.lengths import declared_seconds
from pipeline.planning.plan import PlanReader
from pipeline.schemas import (
    PIECE_DECODED,
    SAMPLE_RATE,
    SAMPLES_PER_MS,
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
from pipeline.sources.access import trust
from pipeline.sources.access.listing import check_root
from pipeline.sources.access.remote import version_read
from pipeline.sources.ahead import read_in_order
from pipeline.sources.formats import check_versions, read_recording
from pipeline.storage.base import apply, open_storage

DECLARED_SECONDS = 1.0  # by which a source's times may be behind the end of a file: they are rounded, encoders add some


@dataclass(slots=True)
class Piece:
    """Audio of one unit, beginning at `start`. A unit with little audio is one piece.

    next: where the next piece begins; None: this is the last piece. samples: length of the piece at 16 kHz.
    recordings: those that end in this piece, by their index in the unit. damages: rows of schemas.DAMAGE. segments:
    rows of schemas.SEGMENT. pcm: the samples of all segments, int16 little endian; `schemas.pcm_of` returns those of
    one segment. opening: samples of the first segment of a recording that began in an earlier piece, if the model has
    to detect its language.
    """

    start: Position
    next: Position | None = None
    samples: int = 0
    recordings: dict[int, DecodedRecording] = field(default_factory=dict)
    damages: list[dict[str, Any]] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    pcm: bytearray = field(default_factory=bytearray)
    opening: bytes | None = None

    def add(self, excerpt: _Excerpt) -> None:
        """Append the excerpt, and release its decoded samples."""
        self.samples += excerpt.samples
        for segment, samples in excerpt.segments:
            self.segments.append(segment | {"pcm_offset": len(self.pcm)})
            self.pcm += to_pcm(samples)
        excerpt.segments = []  # they are views that keep the decoded samples in memory
        if excerpt.damage is not None:
            self.damages.append({"recording_index": excerpt.recording} | excerpt.damage)
        if excerpt.ended is not None:
            self.recordings[excerpt.recording] = excerpt.ended


@dataclass(slots=True)
class _Excerpt:
    """The audio of one recording, or of one channel of it, that belongs to one piece.

    recording: its index in the unit. next: where the audio behind this excerpt begins. samples: length at 16 kHz.
    segments: rows of schemas.SEGMENT, each with its samples. damage: what is not heard of it, a row of schemas.DAMAGE
    without recording_index. ended: what is known about the recording if it ends here.
    """

    recording: int
    next: Position
    samples: int = 0
    segments: list[tuple[dict[str, Any], np.ndarray]] = field(default_factory=list)
    damage: dict[str, Any] | None = None
    ended: DecodedRecording | None = None


class DecodeStage:
    """Turns rows with `unit_id` and `place` into rows of schemas.PIECE_DECODED.

    The references of a unit are read from the plan.
    """

    def __init__(self, config: RunConfig, about: About) -> None:
        """Raises ConfigError if the output cannot be reached."""
        self.storage = open_storage(config.output.uri, create=False, config=config.storage)
        self.decoder = Decoder(config, about)
        self.plans = PlanReader(self.storage)

    def __call__(self, units: pa.Table) -> pa.Table:
        """One piece of each unit: the one that begins at column `start`; without that column the first one."""
        starts = units["start"].to_pylist() if "start" in units.schema.names else [None] * len(units)
        rows = []
        for unit_id, place, start in zip(units["unit_id"].to_pylist(), units["place"].to_pylist(), starts, strict=True):
            begin = START if start is None else Position(**start)
            rows.append(next(self.pieces(unit_id, Place(**place), begin)))
        return to_table(rows, PIECE_DECODED)

    def pieces(self, unit_id: str, place: Place, start: Position = START, number: int = 0) -> Iterator[dict[str, Any]]:
        """Rows of PIECE_DECODED for all pieces from `number` on. Piece `number` begins at `start`."""
        for count, piece in enumerate(self.decoder.pieces(self.plans.unit(unit_id, place), start), start=number):
            row = piece_row(unit_id, place, count, piece.start, piece.next)
            yield row | {
                "samples": piece.samples,
                "recordings": [recording_row(index, known) for index, known in piece.recordings.items()],
                "damages": piece.damages,
                "segments": piece.segments,
                "pcm": piece.pcm,
                "opening": piece.opening,
            }


class Decoder:
    """Decodes units whose references are known. It needs no output.

    A fault of one recording becomes its `problem`. Any other error is raised and ends the job: StorageError, if the
    source is out of reach.
    """

    def __init__(self, config: RunConfig, about: About) -> None:
        apply(config.storage)
        trust.apply(config.source)
        self.root = None if config.source.format == "huggingface" else config.source.uri  # the hub has names
        self.max_seconds = config.compute.max_recording_seconds
        self.max_samples = int(self.max_seconds * SAMPLE_RATE)
        self.read_ahead = config.compute.read_ahead
        self.piece_samples = config.segment.piece_seconds * SAMPLE_RATE
        self.source = config.source
        self.languages, self.detects_language = about.languages, about.detects_language
        longest = min(config.segment.max_seconds, about.window_seconds)
        self.segmenter = Segmenter(config.segment, max_seconds=longest)

    def pieces(self, unit: WorkUnit, start: Position = START) -> Iterator[Piece]:
        """The pieces of a unit from `start` on.

        A piece ends when it contains segment.piece_seconds of audio. Inside a longer recording it ends at a pause
        shortly before that. Unit and start of a piece determine its content.
        """
        opening = self._opening(unit, start)
        piece, position = Piece(start, opening=opening), start
        with closing(read_in_order(unit.refs[start.recording :], self.read_ahead)) as readings:
            for read in readings:
                for excerpt in self._excerpts(unit, position, read):
                    opening = opening or self._first_segment(excerpt)
                    piece.add(excerpt)
                    position = excerpt.next
                    # The recording goes on (ended is None) only where the piece is full or one of its channels ends.
                    full = excerpt.ended is None or piece.samples >= self.piece_samples
                    if full and position.recording < len(unit.refs):
                        piece.next = position
                        yield piece
                        piece = Piece(position, opening=opening if position.recording == excerpt.recording else None)
                opening = None
        yield piece

    def _opening(self, unit: WorkUnit, at: Position) -> bytes | None:
        """`Piece.opening` of the piece that begins at `at`, from the recording's beginning on."""
        if not self.detects_language or not (at.sample or at.channel):
            return None
        ref = unit.refs[at.recording]
        with closing(self._excerpts(unit, Position(at.recording), lambda: read_recording(ref))) as excerpts:
            for excerpt in excerpts:
                if (opening := self._first_segment(excerpt)) is not None:
                    return opening
                if excerpt.next == at or excerpt.ended is not None:
                    break
        return None

    def _first_segment(self, excerpt: _Excerpt) -> bytes | None:
        """The samples of an excerpt's first segment; None if the model need not detect its language."""
        if not self.detects_language or not excerpt.segments or excerpt.segments[0][0]["language"] is not None:
            return None
        return to_pcm(excerpt.segments[0][1])

    def _excerpts(
        self, unit: WorkUnit, at: Position, read_now: Callable[[], Recording]
    ) -> Generator[_Excerpt, None, None]:
        """The excerpts of one recording from `at` on; a single one with its `problem` if it cannot be decoded."""
        ref, after = unit.refs[at.recording], Position(at.recording + 1)
        known = DecodedRecording(language=ref.language, reference=ref.reference, metadata=ref.metadata)
        try:
            if ref.problem:
                problem = Problem(ref.problem, "list", ref.problem_detail or "")
                yield _Excerpt(at.recording, after, ended=replace(known, problem=problem))
                return
            read = read_now()
            known = DecodedRecording(language=read.language, reference=read.reference, metadata=read.metadata)
            try:
                if read.language is not None and read.language not in self.languages:
                    raise BadRecording(
                        "unsupported_language", f"the model does not know the language {read.language!r}"
                    )
                yield from self._channels(ref, read, known, at)
            finally:
                read.close()
        except BadRecording as err:
            if err.reason == "missing_file" and self.root:  # or the whole source is out of reach
                check_root(self.root)
            stage = "decode" if isinstance(err, BadAudio) else "read"
            reason = "truncated_archive" if ref.missing_bytes and stage == "decode" else err.reason
            problem = Problem(reason, stage, err.detail)
            yield _Excerpt(at.recording, after, ended=replace(known, problem=problem, **err.described))

    def _channels(
        self, ref: RecordingRef, read: Recording, known: DecodedRecording, at: Position
    ) -> Iterator[_Excerpt]:
        """The excerpts of all wanted channels of all wanted tracks, one after the other."""
        found = decode.contents(read.audio, name=ref.source_member or ref.source_uri)
        channels = wanted_channels(ref, found, self.source)
        left_out = found.tracks - len({channel.track for channel in channels})
        known = replace(known, tracks_left_out=left_out, bytes_left_out=found.bytes_behind)
        while at.channel < len(channels):
            last = at.channel == len(channels) - 1
            for excerpt in self._channel(ref, read, at, channels[at.channel]):
                at = excerpt.next
                if last and not at.sample:
                    planned = ref.version.partition("\n")[0]  # then those of companion files, which are read before
                    if not isinstance(read.audio, bytes) and version_read(read.audio) != planned:
                        check_versions(ref)  # it was read while it was decoded
                    known = replace(known, samples=at.before)
                    excerpt.next, excerpt.ended = Position(at.recording + 1), known
                yield excerpt

    def _channel(self, ref: RecordingRef, read: Recording, at: Position, wanted: Channel) -> Iterator[_Excerpt]:
        """The excerpts of one channel from `at` on. `next` of the last one has sample 0."""
        blocks: list[np.ndarray] = []  # decoded, but not in an excerpt yet
        total = 0  # samples in `blocks`
        lost: list[Lost] = []
        name = ref.source_member or ref.source_uri
        stream = decode.stream(
            read.audio,
            name=name,
            max_seconds=self.max_seconds,
            track=wanted.track,
            channel=wanted.channel,
            start_ms=(ref.start_ms or 0) + at.sample // SAMPLES_PER_MS if ref.start_ms or at.sample else None,
            end_ms=ref.end_ms,
            and_above=wanted.and_above,
            lost=lost,
        )
        with closing(stream):
            for block in stream:
                blocks.append(block)
                total += len(block)
                if at.sample + total > self.max_samples:
                    raise BadAudio("too_long", f"{name}: longer than {self.max_seconds:g} s")
                if total > self.piece_samples:
                    samples = np.concatenate(blocks)
                    blocks.clear()
                    windows = self.segmenter(samples[: self.piece_samples])
                    final, end, overlaps = piece_end(windows, self.piece_samples, self.segmenter.config)
                    segments = _segments(ref, read, at, wanted.label, samples, windows[:final])
                    damage, _ = _damage(ref, lost, at.sample, end)
                    at = replace(at, sample=at.sample + end, segment=at.segment + final, overlaps=overlaps)
                    blocks, total = [samples[end:].copy()], len(samples) - end
                    yield _Excerpt(at.recording, at, end, segments, damage)
                    del samples, segments  # before the next block is decoded
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        windows = self.segmenter(samples)
        segments = _segments(ref, read, at, wanted.label, samples, windows)
        lost += _cut_off(ref, lost, (ref.start_ms or 0) / 1000 + (at.sample + total) / SAMPLE_RATE)
        damage, behind = _damage(ref, lost, at.sample, total, is_last=True)
        after = replace(
            at,
            channel=at.channel + 1,
            sample=0,
            segment=at.segment + len(windows),
            before=at.before + at.sample + total + behind,
            overlaps=False,
        )
        yield _Excerpt(at.recording, after, total, segments, damage)


def describe(ref: RecordingRef) -> DecodedRecording:
    """Language, reference and metadata of a recording, also from its companion files, without decoding its audio.

    Raises BadRecording if it cannot be read.
    """
    read = read_recording(ref)
    read.close()
    return DecodedRecording(language=read.language, reference=read.reference, metadata=read.metadata)


def declared_samples(ref: RecordingRef) -> int:
    """How long a recording is at 16 kHz, as its source declares; 0 if it does not."""
    return round((declared_seconds(ref) or 0.0) * SAMPLE_RATE)


def recording_row(index: int, known: DecodedRecording) -> dict[str, Any]:
    """A row of schemas.DECODED_RECORDING."""
    return {"recording_index": index} | {
        name: value for name, value in asdict(known).items() if name not in ("damage", "lost_samples")
    }


def _cut_off(ref: RecordingRef, lost: list[Lost], end: float) -> list[Lost]:
    """What the source says of a recording and its file does not have. end: of what was decoded, in seconds.

    A file that is shorter than its own header says is in `lost` already.
    """
    if any(one.seconds for one in lost if one.reason == "truncated_audio"):
        return []
    if ref.missing_bytes:
        detail = f"{ref.missing_bytes} bytes of it are not in the archive"
        return [Lost(end, end * ref.missing_bytes / ref.size, "truncated_archive", detail)]
    if ref.end_ms is not None and (missing := ref.end_ms / 1000 - end) > DECLARED_SECONDS:
        return [Lost(end, missing, "truncated_audio", f"{end:.2f} s decoded, to {ref.end_ms / 1000:.2f} s declared")]
    return []


def _damage(
    ref: RecordingRef, lost: list[Lost], first: int, samples: int, *, is_last: bool = False
) -> tuple[dict[str, Any] | None, int]:
    """What is not heard of an excerpt of a channel, and how many samples of it are behind the end of what was decoded.

    first: the sample with which the excerpt begins. samples: its length. is_last: what is lost behind it belongs to it.
    The first value is a row of schemas.DAMAGE without recording_index; None if all is heard.
    """
    start_ms = (ref.start_ms or 0) + first / SAMPLES_PER_MS
    end_ms = start_ms + samples / SAMPLES_PER_MS
    spans = list(decode.within(lost, start_ms, ref.end_ms if is_last else end_ms))
    if not spans:
        return None, 0
    seconds = sum(span.seconds for span in spans)
    behind = sum(max(0.0, span.start + span.seconds - max(span.start, end_ms / 1000)) for span in spans)
    name, how_much = ref.source_member or ref.source_uri, f"{seconds:.2f} s" if seconds else "an unknown part"
    longest = max(spans, key=lambda span: span.seconds)
    error = f"{name}: {how_much} not heard, from {spans[0].start:.2f} s on: {longest.detail}"
    damage = {"reason": longest.reason, "stage": "decode", "error": error}
    return damage | {"lost_samples": round(seconds * SAMPLE_RATE)}, round(behind * SAMPLE_RATE)


def _segments(
    ref: RecordingRef,
    read: Recording,
    at: Position,
    channel: int | None,
    samples: np.ndarray,
    windows: list[Window],
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Rows of schemas.SEGMENT without `pcm_offset`, each with a view of its samples.

    samples: of a channel, from position `at` on. windows: relative to `samples`; the times of a row are relative to the
    start of the channel.
    """
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
