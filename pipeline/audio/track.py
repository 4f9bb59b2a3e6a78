"""The audio track of any container as arrays of samples.

PyAV reads it, limited so that it opens no other file and hides no damage. It decodes all formats; libsndfile 1.2 is not
used for any. Measured: of joined ogg and mp3 files libsndfile reads only the first, without an error; it cannot read
flac of unknown length (from a pipe); and it takes three times as long for opus.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO, NoReturn

import av
import numpy as np

from pipeline.audio.frames import Kind, dtype_of, joined, kind_of, planes_of
from pipeline.audio.headers import check_format, looks_like_audio, mp3_declared_seconds, mpeg_frame_bytes
from pipeline.schemas import SAMPLE_RATE, BadAudio

# Only these demuxers and decoders run. Playlists (hls, dash, concat, sdp ...) do not: they open files and addresses.
FORMATS = (
    "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,"
    "amr,amrnb,amrwb,mpegts,mpeg,avi,flv,ac3,eac3,nistsphere"
)
CODECS = (
    "pcm_s8,pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_s64le,pcm_f32le,pcm_f32be,"
    "pcm_f64le,pcm_f64be,pcm_mulaw,pcm_alaw,adpcm_ima_wav,adpcm_ima_qt,adpcm_ms,adpcm_swf,adpcm_yamaha,flac,alac,"
    "mp1float,mp2,mp2float,mp3,mp3float,aac,aac_latm,opus,libopus,vorbis,amrnb,amrwb,libopencore_amrnb,"
    "libopencore_amrwb,wmav1,wmav2,wmapro,wmavoice,ac3,eac3,gsm,gsm_ms,speex,g722,g726,nellymoser"
)
OPTIONS = {"format_whitelist": FORMATS, "codec_whitelist": CODECS, "protocol_whitelist": "none"}
# Containers whose declared duration is that of the audio, and how much of it may be the delay of an encoder.
TRACK_DURATION = {"flac", "aiff", "au", "ogg", "mov,mp4,m4a,3gp,3g2,mj2", "asf"}
CODEC_DELAY_SECONDS = 0.25
# Containers whose time stamps may leave gaps on purpose (a recorder on pause, silence that was not sent). A gap is
# filled with silence, so that times stay those of the recording. In ogg and flac a gap is damage; in mpegts and flv it
# means nothing.
GAPS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
GAP_SECONDS = 0.1  # less is jitter
RESYNC = {"mp3", "aac"}  # bare frames: other bytes (tags) may stand between them, and every player skips them

IO_BYTES = 1 << 16
BLOCK_FRAMES = 1 << 16  # at the native rate
SEEK_WARM_UP_SECONDS = 0.25  # audio that the resampler gets before the first sample that is wanted


class AudioTrack:
    """The first audio track of `file`, which is open, can seek and is at its start. A context manager.

    `name` is what error messages call the recording. Opening raises BadAudio: not_audio or corrupt_audio.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        head = file.read(64)
        self.mp3_seconds = mp3_declared_seconds(file)
        file.seek(0)
        try:
            self.container: Any = av.open(
                file, options=dict(OPTIONS), metadata_errors="replace", buffer_size=IO_BYTES, io_open=self._refuse
            )
        except av.FFmpegError as err:
            reason = "corrupt_audio" if looks_like_audio(head) else "not_audio"
            raise BadAudio(reason, f"{name}: {err.strerror}") from None
        self.position = 0  # index of the next frame; -1 after a seek: the time stamp of the next frame tells it
        self.sought = 0  # where a seek went: the next frame may not be behind it
        self.origin = 0.0  # time stamp of index 0, in seconds
        try:
            self.track = self._first_audio()
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> AudioTrack:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def _refuse(self, url: str, *_: object) -> NoReturn:
        raise BadAudio("not_audio", f"{self.name}: refers to another file, {url!r}")

    def _first_audio(self) -> Any:
        kind = self.container.format.name
        if not self.container.streams.audio:
            raise BadAudio("not_audio", f"{self.name}: no audio in this {kind}")
        track = self.container.streams.audio[0]
        if track.codec_context is None or track.codec_context.name not in CODECS.split(","):
            raise BadAudio("not_audio", f"{self.name}: no decoder for the audio in this {kind}")
        track.codec_context.thread_count = 1
        if track.codec_context.name == "flac":
            track.codec_context.options = {"err_detect": "crccheck+explode"}
        return track

    def seek(self, first: int) -> int:
        """Move to shortly before the 16 kHz sample `first`. Returns the index of the native frame to begin with.

        Only PCM and flac seek to a known frame; the others stay at the start, frame 0. The frame is a multiple of
        rate / gcd(rate, 16 kHz): a resampler that begins there is in phase with one that began at the start.
        """
        codec, rate = self.track.codec_context.name, self.track.codec_context.sample_rate
        if not (codec == "flac" or codec.startswith("pcm_")) or not rate or self.track.time_base != Fraction(1, rate):
            return 0
        in_phase = rate // math.gcd(rate, SAMPLE_RATE)
        frame = int(first * rate / SAMPLE_RATE - SEEK_WARM_UP_SECONDS * rate) // in_phase * in_phase
        if frame <= 0:
            return 0
        try:
            self.container.seek(frame, stream=self.track)
        except av.FFmpegError:  # perhaps behind the end: decoding from the start tells
            self.container.seek(0, stream=self.track)
            return 0
        self.position, self.sought = -1, frame
        return frame

    def planes(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield blocks to the end: (index of the first frame, rate in Hz, samples [channels, frames]).

        The samples have the type that the decoder gives. A block has one rate, one type and about BLOCK_FRAMES frames.

        Raises:
            BadAudio: corrupt_audio, the stream is damaged; truncated_audio, it ends before its declared end (bare mp2
                and ac3, avi and mpegts declare none); unsupported_audio, the rate or the number of channels is out of
                range.
        """
        block, frame = _Block(), None
        for frame in self._frames():
            kind = kind_of(frame)
            if kind != block.kind:
                yield from block.taken()
                check_format(kind.rate, kind.channels, name=self.name)
                self._place(frame, kind, block.kind)
                block.kind = kind
            self._check_order(frame, kind.rate)
            missing = self._missing_frames(frame, kind.rate)
            if missing > GAP_SECONDS * kind.rate:
                yield from block.taken()
                yield from self._silence(missing, kind)
            block.add(frame, self.position)
            self.position += frame.samples
            if block.count >= BLOCK_FRAMES:
                yield from block.taken()
        yield from block.taken()
        if frame is not None:
            self._check_complete(self.position / kind.rate, (frame.time or 0.0) + frame.samples / kind.rate)

    def _place(self, frame: Any, kind: Kind, before: Kind) -> None:
        """Find out where a frame of a new kind is: after a seek its index, and which time stamp index 0 has."""
        if self.position < 0:
            self.position = frame.pts or 0
            if self.position > self.sought:
                self._refuse_order(self.sought / kind.rate)
        if (kind.rate, kind.channels) != (before.rate, before.channels):
            self.origin = 0.0 if frame.time is None else frame.time - self.position / kind.rate

    def _check_order(self, frame: Any, rate: int) -> None:
        if self.track.codec_context.name == "flac" and frame.pts not in (None, self.position):
            self._refuse_order(self.position / rate)

    def _refuse_order(self, seconds: float) -> NoReturn:
        raise BadAudio("corrupt_audio", f"{self.name}: frames are missing at {seconds:.2f} s")

    def _missing_frames(self, frame: Any, rate: int) -> int:
        """By how many frames the time stamp is ahead of the frames so far, in a container where gaps mean silence."""
        if self.container.format.name not in GAPS or frame.time is None:
            return 0
        return round((frame.time - self.origin) * rate) - self.position

    def _silence(self, frames: int, kind: Kind) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield blocks of silence with `frames` frames in all. A time stamp far in the future takes no memory."""
        dtype = dtype_of(kind)
        silence = np.full((kind.channels, 1 << 14), 128 if dtype == np.uint8 else 0, dtype)
        for at in range(0, frames, silence.shape[1]):
            block = silence[:, : frames - at]
            yield self.position, kind.rate, block
            self.position += block.shape[1]

    def _frames(self) -> Iterator[Any]:
        """Yield decoded frames. A packet that fails is corrupt_audio; if it is the last one, truncated_audio."""
        failure: BadAudio | None = None
        last = None
        resync = self.container.format.name in RESYNC
        for packet in self._packets():
            if failure and packet.size:
                raise failure
            last = packet if packet.size else last
            try:
                frames = packet.decode()
            except av.FFmpegError as err:
                if not (resync and not _is_sync(packet)):
                    failure = BadAudio("corrupt_audio", f"{self.name}: {err.strerror}")
                continue
            yield from frames
        if failure:
            raise BadAudio("truncated_audio", f"{self.name}: ends inside a packet")
        if self.container.format.name == "mp3" and last is not None and last.size < mpeg_frame_bytes(bytes(last)[:4]):
            raise BadAudio("truncated_audio", f"{self.name}: ends inside a frame")

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of the track, then the empty one that flushes the decoder."""
        try:
            for packet in self.container.demux(self.track):
                if packet.size or packet.pts is None:  # other empty packets would end the decoder
                    yield packet
        except av.FFmpegError as err:
            raise BadAudio("corrupt_audio", f"{self.name}: {err.strerror}") from None
        except IndexError:  # raised by PyAV if a new track begins after the header
            raise BadAudio("corrupt_audio", f"{self.name}: a track that the header does not know") from None

    def _check_complete(self, seconds: float, end_seconds: float) -> None:
        """Compare the declared length with `seconds`, which were decoded, and `end_seconds`, the end by time stamps.

        Raises BadAudio: truncated_audio if the end is missing, corrupt_audio if the end is there and audio before it is
        missing.
        """
        kind, track = self.container.format.name, self.track
        start, declared = 0.0, 0.0
        if kind in TRACK_DURATION and track.duration:
            start = float((track.start_time or 0) * track.time_base)
            declared = float(track.duration * track.time_base)
        elif kind == "mp3":
            declared = self.mp3_seconds
        elif kind == "matroska,webm" and len(self.container.streams) == 1:
            declared = (self.container.duration or 0) / av.time_base
        codec = track.codec_context.name
        tolerance = 1e-3 if codec == "flac" or codec.startswith("pcm_") else CODEC_DELAY_SECONDS
        if declared - seconds > tolerance:
            hole = end_seconds >= start + declared - tolerance
            reason = "corrupt_audio" if hole else "truncated_audio"
            raise BadAudio(reason, f"{self.name}: {seconds:.2f} s decoded, {declared:.2f} s declared")


class _Block:
    """Frames of one kind that wait to be joined."""

    def __init__(self) -> None:
        self.kind = Kind(0, 0, "")
        self.start = self.count = 0  # index of the first frame, number of frames
        self._frames: list[list[np.ndarray]] = []

    def add(self, frame: Any, position: int) -> None:
        if not self._frames:
            self.start, self.count = position, 0
        if frame.samples:
            self._frames.append(planes_of(frame, self.kind))
            self.count += frame.samples

    def taken(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield the block as `AudioTrack.planes` does, if there is one, and be empty."""
        if self._frames:
            frames, self._frames, self.count = self._frames, [], 0
            yield self.start, self.kind.rate, joined(frames, self.kind)


def _is_sync(packet: Any) -> bool:
    head = bytes(packet)[:2]
    return len(head) == 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
