"""Encoded audio of any common format becomes 16 kHz mono float32: decode, mix, resample, cut. Memory is bounded."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from typing import BinaryIO

import numpy as np
import soxr

from pipeline.audio.headers import check_format, check_header
from pipeline.audio.pcm import FULL_SCALE
from pipeline.audio.track import AudioTrack
from pipeline.schemas import SAMPLE_RATE, BadAudio

LARGEST = {"uint8": 128, "int16": FULL_SCALE, "int32": 1 << 31, "int64": 1 << 63}  # the integer that becomes 1.0


def decode_all(
    data: bytes | BinaryIO,
    *,
    name: str,
    max_seconds: float,
    channel: int | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> np.ndarray:
    """All blocks of `stream` as one array: float32 [samples], mono, 16 kHz, in [-1, 1]. Raises what `stream` raises."""
    joined = bytearray()
    for block in stream(data, name=name, max_seconds=max_seconds, channel=channel, start_ms=start_ms, end_ms=end_ms):
        joined += block.data.cast("B")
    return np.frombuffer(joined, np.float32)


def stream(
    data: bytes | BinaryIO,
    *,
    name: str,
    max_seconds: float,
    channel: int | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> Generator[np.ndarray, None, None]:
    """Yield blocks of float32 [samples], mono, 16 kHz, in [-1, 1]. Memory does not grow with the recording.

    Args:
        data: the encoded bytes, or a binary file that can seek.
        name: what error messages call the recording.
        max_seconds: longer audio is refused.
        channel: the one to take; None: the mean of all.
        start_ms: cut here, after resampling: the samples are the same as in the whole recording. None: from the start.
        end_ms: cut before this; None: to the end.

    Raises:
        BadAudio: before any block, with one of schemas.REASONS. An error of the file object itself passes through.
    """
    first, stop = _range(start_ms, end_ms, name)
    limit = int(max_seconds * SAMPLE_RATE)
    yielded = 0
    for at, block in _resampled(_native(_checked(data, name), name, channel, first)):
        wanted = block[max(0, first - at) : None if stop is None else max(0, stop - at)]
        yielded += len(wanted)
        if yielded > limit:
            raise BadAudio("too_long", f"{name}: more than {max_seconds:g} s")
        if len(wanted):
            yield np.clip(wanted, -1.0, 1.0)
        if stop is not None and at + len(block) >= stop:
            break
    if not yielded:
        raise BadAudio("no_samples", f"{name}: no samples" + (" in this range" if start_ms or end_ms else ""))


def channels(data: bytes | BinaryIO, *, name: str) -> int:
    """The number of channels, from the header. Raises BadAudio as `stream` does if the bytes are not audio."""
    with AudioTrack(_checked(data, name), name) as track:
        count = track.track.codec_context.channels
        check_format(track.track.codec_context.sample_rate, count, name=name)
        return int(count)


def _range(start_ms: int | None, end_ms: int | None, name: str) -> tuple[int, int | None]:
    start, end = start_ms or 0, end_ms
    if start < 0 or (end is not None and end <= start):
        raise BadAudio("bad_metadata", f"{name}: the range {start} ms to {end} ms is empty or negative")
    return start * SAMPLE_RATE // 1000, None if end is None else end * SAMPLE_RATE // 1000


def _checked(data: bytes | BinaryIO, name: str) -> BinaryIO:
    """The data as a file at its start. Raises BadAudio if it is empty or its header is impossible."""
    file: BinaryIO = io.BytesIO(data) if isinstance(data, bytes) else data
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise BadAudio("empty_file", f"{name}: zero bytes")
    check_header(file, size, name=name)
    file.seek(0)
    return file


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


def _native(file: BinaryIO, name: str, channel: int | None, first: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield blocks at the native rate: (rate in Hz, index of the first frame, float32 [frames] mono).

    They begin at the start of the file, or shortly before the 16 kHz sample `first` if the format can seek exactly.
    """
    with AudioTrack(file, name) as track:
        wanted = track.seek(first)
        for position, rate, planes in track.planes():
            if position + planes.shape[1] > wanted:
                yield rate, max(position, wanted), _mono(planes[:, max(0, wanted - position) :], channel, name)


def _mono(planes: np.ndarray, channel: int | None, name: str) -> np.ndarray:
    """One channel or the mean of all, as float32 [frames] in [-1, 1]. planes: [channels, frames] of any sample type."""
    if channel is not None:
        if not 0 <= channel < len(planes):
            raise BadAudio("unsupported_audio", f"{name}: channel {channel} of {len(planes)}")
        planes = planes[channel : channel + 1]
    with np.errstate(over="ignore", invalid="ignore"):
        mono = planes[0].astype(np.float32)
        if len(planes) > 1:
            for plane in planes[1:]:
                mono += plane
            mono /= len(planes)
        if planes.dtype.kind == "f":
            if not np.isfinite(mono.sum(dtype=np.float64)):
                raise BadAudio("invalid_samples", f"{name}: NaN or infinite samples")
            return np.clip(mono, -1.0, 1.0, out=mono)
    if planes.dtype == np.uint8:
        mono -= 128
    return np.multiply(mono, np.float32(1 / LARGEST[planes.dtype.name]), out=mono)
