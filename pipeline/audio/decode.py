"""Encoded audio of any common format becomes 16 kHz mono float32: decode, mix, resample, cut. Memory is bounded."""

from __future__ import annotations

import io
import math
from collections.abc import Generator, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soxr

from pipeline.audio.headers import Missing, believed, check_header
from pipeline.audio.pcm import FULL_SCALE
from pipeline.audio.track import AudioTrack, Lost
from pipeline.schemas import SAMPLE_RATE, BadAudio

CANCELLED = 0.1  # amplitude of a mean that has lost what its channels say; a voice in one of 8 channels has 0.125
LEVEL_STEP = 8  # every eighth frame is enough to know how loud a second is
INVALID = "NaN or infinite samples"
LARGEST = {"uint8": 128, "int16": FULL_SCALE, "int32": 1 << 31, "int64": 1 << 63}  # the integer that becomes 1.0


def decode_all(
    data: bytes | BinaryIO,
    *,
    name: str,
    max_seconds: float,
    track: int | None = None,
    channel: int | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> np.ndarray:
    """All blocks of `stream` as one array: float32 [samples], mono, 16 kHz, in [-1, 1].

    Raises what `stream` raises, and BadAudio where anything of it is damaged or missing.
    """
    joined = bytearray()
    wanted: Any = {"track": track, "channel": channel, "start_ms": start_ms, "end_ms": end_ms}
    lost: list[Lost] = []
    for block in stream(data, name=name, max_seconds=max_seconds, lost=lost, **wanted):
        joined += block.data.cast("B")
    for one in within(lost, start_ms, end_ms):
        raise BadAudio(one.reason, f"{name}: {one.detail}")
    return np.frombuffer(joined, np.float32)


def stream(
    data: bytes | BinaryIO,
    *,
    name: str,
    max_seconds: float,
    track: int | None = None,
    channel: int | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
    and_above: bool = False,
    lost: list[Lost] | None = None,
) -> Generator[np.ndarray, None, None]:
    """Yield blocks of float32 [samples], mono, 16 kHz, in [-1, 1]. Memory does not grow with the recording.

    Args:
        data: the encoded bytes, or a binary file that can seek.
        name: what error messages call the recording.
        max_seconds: longer audio is refused.
        track: number of the audio track, from 0; None: the default one.
        channel: the one to take; None: the mean of all. Where the channels cancel each other, it is the loudest one.
        start_ms: cut here, after resampling: the samples are the same as in the whole recording. None: from the start.
        end_ms: cut before this; None: to the end.
        and_above: `channel` is the mean of this channel and all above it: more than the header says may begin later.
        lost: a list that gets each stretch of the track that is not heard, at the latest with the samples behind it.
            What is lost within the track is silence.

    Raises:
        BadAudio: nothing can be decoded, or it is longer than max_seconds; with one of schemas.REASONS. An error of the
            file object before the first sample passes through.
    """
    first, stop = _range(start_ms, end_ms, name)
    limit = int(max_seconds * SAMPLE_RATE)
    yielded = 0
    lost = [] if lost is None else lost
    wanted_channels = _Channels(channel, and_above)
    for at, block in _resampled(_native(data, name, track, wanted_channels, first, lost)):
        wanted = block[max(0, first - at) : None if stop is None else max(0, stop - at)]
        yielded += len(wanted)
        if yielded > limit:
            raise BadAudio("too_long", f"{name}: more than {max_seconds:g} s")
        if len(wanted):
            yield np.clip(wanted, -1.0, 1.0)
        if stop is not None and at + len(block) >= stop:
            break
    for one in within(lost, start_ms, end_ms) if not yielded else ():
        raise BadAudio(one.reason, f"{name}: {one.detail}")
    if not yielded:
        raise BadAudio("no_samples", f"{name}: no samples" + (" in this range" if start_ms or end_ms else ""))


def within(lost: Iterable[Lost], start_ms: float | None = None, end_ms: float | None = None) -> Iterator[Lost]:
    """The stretches that are lost between two times, cut there. None: from the start, or to behind the end."""
    first, last = (start_ms or 0) / 1000, math.inf if end_ms is None else end_ms / 1000
    for one in lost:
        start, end = max(first, one.start), min(last, one.start + one.seconds)
        if start < end or (not one.seconds and first <= one.start < last):
            yield one._replace(start=start, seconds=max(0.0, end - start))


class _Channels(NamedTuple):
    """Which channels become one signal: their mean. channel None: all; and_above: also those with higher numbers."""

    channel: int | None
    and_above: bool = False


class Contents(NamedTuple):
    """What a file holds.

    channels: of each audio track that can be decoded, by its number; the default track is the first one. tracks: number
    of all audio tracks. bytes_behind: bytes behind the audio that are not decoded and not known as anything else.
    """

    channels: dict[int, int]
    tracks: int
    bytes_behind: int


def contents(data: bytes | BinaryIO, *, name: str) -> Contents:
    """What the headers say. Raises BadAudio as `stream` does if the bytes are not audio."""
    file, behind, missing = _checked(data, name)
    with AudioTrack(file, name, missing=missing) as track:
        counts = {number: track.channels(number) for number in track.tracks}
        channels = {track.number: counts[track.number], **counts}
        return Contents(channels, len(track.container.streams.audio), behind)


def _range(start_ms: int | None, end_ms: int | None, name: str) -> tuple[int, int | None]:
    start, end = start_ms or 0, end_ms
    if start < 0 or (end is not None and end <= start):
        raise BadAudio("bad_metadata", f"{name}: the range {start} ms to {end} ms is empty or negative")
    return start * SAMPLE_RATE // 1000, None if end is None else end * SAMPLE_RATE // 1000


def _checked(data: bytes | BinaryIO, name: str) -> tuple[BinaryIO, int, Missing]:
    """What `headers.believed` and `headers.check_header` return, the file at its start.

    Raises BadAudio: it is empty or its header impossible.
    """
    file: BinaryIO = io.BytesIO(data) if isinstance(data, bytes) else data
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise BadAudio("empty_file", f"{name}: zero bytes")
    missing = check_header(file, size, name=name)
    file, behind = believed(file, size, name)
    file.seek(0)
    return file, behind, missing


def _resampled(native: Iterator[tuple[int, int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Resample (rate in Hz, index of the first frame, samples) to (index of the first sample, samples) at 16 kHz."""
    at, rate, resampler = -1, 0, None
    for block_rate, first, mono in native:
        if at < 0:
            at = first * SAMPLE_RATE // block_rate
        if block_rate != rate:
            if resampler is not None:
                tail = resampler.resample_chunk(np.empty(0, np.float32), last=True)
                yield at, tail
                at += len(tail)
            rate = block_rate
            resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        block = mono if resampler is None else resampler.resample_chunk(mono)
        yield at, block
        at += len(block)
    if resampler is not None:
        yield at, resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _native(
    data: bytes | BinaryIO,
    name: str,
    number: int | None,
    channels: _Channels,
    first: int,
    lost: list[Lost],
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield blocks at the native rate: (rate in Hz, index of the first frame, float32 [frames] mono).

    They begin at the start of the file, or shortly before the 16 kHz sample `first` if the format can seek exactly.
    """
    file, _, missing = _checked(data, name)
    is_first = True
    with AudioTrack(file, name, number, missing) as track:
        wanted = track.seek(first)
        track.lost = lost
        for position, rate, planes in _windows(track.planes()):
            chosen = _chosen(planes, channels)
            if not len(chosen):
                detail = f"channel {channels.channel} of {len(planes)}"
                if is_first:
                    raise BadAudio("unsupported_audio", f"{name}: {detail}")
                lost.append(Lost(position / rate, planes.shape[1] / rate, "unsupported_audio", detail))
                chosen = np.zeros_like(planes[:1])
            is_first = False
            if position + planes.shape[1] > wanted:
                mono = _mono(chosen)
                if not np.isfinite(mono.sum(dtype=np.float64)):
                    bad = np.flatnonzero(~np.isfinite(mono))
                    lost.append(Lost((position + int(bad[0])) / rate, len(bad) / rate, "invalid_samples", INVALID))
                    mono[bad] = 0
                for start, end in track.empty:
                    mono[max(0, round(start * rate) - position) : max(0, round(end * rate) - position)] = 0
                yield rate, max(position, wanted), mono[max(0, wanted - position) :]


def _windows(blocks: Iterator[tuple[int, int, np.ndarray]]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Join and cut blocks with several channels so that each ends at a whole second. Blocks of one channel pass.

    So how a second is mixed depends on nothing but its audio.
    """
    waiting: list[np.ndarray] = []
    start, before = 0, (0, 0, "")
    for position, rate, planes in blocks:
        kind = (rate, len(planes), planes.dtype.str)
        if waiting and kind != before:
            yield start, before[0], np.concatenate(waiting, axis=1)
            waiting = []
        if len(planes) == 1:
            yield position, rate, planes
            continue
        start, before = (start, before) if waiting else (position, kind)
        waiting.append(planes)
        end = position + planes.shape[1]
        while start // rate < end // rate:
            whole = np.concatenate(waiting, axis=1)
            count = rate - start % rate
            yield start, rate, whole[:, :count]
            start, waiting = start + count, [whole[:, count:]] if whole.shape[1] > count else []
    if waiting:
        yield start, before[0], np.concatenate(waiting, axis=1)


def _chosen(planes: np.ndarray, channels: _Channels) -> np.ndarray:
    """The rows of `planes` [channels, frames] that are wanted; none if there is no such channel."""
    if channels.channel is None:
        return planes
    first = max(0, channels.channel) if channels.channel >= 0 else len(planes)
    return planes[first:] if channels.and_above else planes[first : first + 1]


def _mono(planes: np.ndarray) -> np.ndarray:
    """The mean of all channels, as float32 [frames] in [-1, 1] or not finite. planes: of any sample type.

    If the mean is far quieter than the loudest channel, because one channel is the other one inverted, it is that one.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mono = planes[0].astype(np.float32)
        if len(planes) > 1:
            for plane in planes[1:]:
                mono += plane
            mono /= len(planes)
            mono = _loudest(planes, mono)
        if planes.dtype.kind == "f":
            infinite = np.isinf(mono)
            if infinite.any():
                mono[infinite] = np.nan
            return np.clip(mono, -1.0, 1.0, out=mono)
    if planes.dtype == np.uint8:
        mono -= 128
    return np.multiply(mono, np.float32(1 / LARGEST[planes.dtype.name]), out=mono)


def _loudest(planes: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The mean of the channels, or the loudest one as float32 [frames] where the mean has less than CANCELLED of it."""
    rest = 128 if planes.dtype == np.uint8 else 0  # the value of silence
    few = planes[:, ::LEVEL_STEP].astype(np.float32) - rest
    powers = np.square(few).mean(axis=1)
    if not np.square(mean[::LEVEL_STEP] - rest).mean() < CANCELLED**2 * powers.max():
        return mean
    loud = next(number for number, power in enumerate(powers) if power > 0.8 * powers.max())  # it seldom changes
    return planes[loud].astype(np.float32)
