"""The audio track of any container as arrays of samples: PyAV, fenced in so that it opens nothing and hides no damage.

One decoder for all formats, and not libsndfile for some: measured, libsndfile 1.2 drops all but the first part of
joined ogg and mp3 files without a word, cannot read flac of unknown length (from a pipe), and takes three times as long
for opus.
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

# Only these demuxers and decoders run. No playlists (hls, dash, concat, sdp ...): they open files and addresses.
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
# Where a declared duration is that of the audio, and how much of it the delay of an encoder may take.
TRACK_DURATION = {"flac", "aiff", "au", "ogg", "mov,mp4,m4a,3gp,3g2,mj2", "asf"}
CODEC_DELAY_SECONDS = 0.25
# Time stamps may leave gaps on purpose (a recorder on pause, silence not sent): they are filled with silence, so
# that times stay those of the recording. In ogg and flac a gap is damage; those of mpegts and flv mean nothing.
GAPS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
GAP_SECONDS = 0.1  # less is jitter
RESYNC = {"mp3", "aac"}  # bare frames: foreign bytes (tags) between them are legal, every player skips them

IO_BYTES = 1 << 16
BLOCK_FRAMES = 1 << 16  # at the native rate
SEEK_WARM_UP_SECONDS = 0.25  # fed to the resampler before the first sample that is wanted


class AudioTrack:
    """The first audio track of an opened `file` (seekable, at its start). A context manager.

    Raises BadAudio on opening: not_audio, corrupt_audio. `name` serves only in messages.
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
        self.position = 0  # index of the next frame; -1: as the first one's time stamp says, at most `sought`
        self.sought = 0
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
        """Move to shortly before the 16 kHz sample `first`; index of the native frame to begin with, 0 for the start.

        Only where a seek lands on a known frame (PCM, flac). The frame is a multiple of rate / gcd(rate, 16 kHz): there
        a resampler that begins is in phase with one that began at the start.
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
        except av.FFmpegError:  # behind the end, perhaps: decoding from the start will tell
            self.container.seek(0, stream=self.track)
            return 0
        self.position, self.sought = -1, frame
        return frame

    def planes(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (index of the first frame, rate in Hz, samples [channels, frames] in their own type) to the end.

        A block is of one rate and type, and holds about BLOCK_FRAMES. Raises BadAudio: corrupt_audio where the stream
        is damaged, truncated_audio where it ends before its declared end (a bare stream of mp2, ac3, avi or mpegts
        declares none), unsupported_audio for a rate or channel count out of range.
        """
        kind, held, start = Kind(0, 0, ""), list[list[np.ndarray]](), 0
        frame, origin = None, None
        gaps, is_flac = self.container.format.name in GAPS, self.track.codec_context.name == "flac"
        for frame in self._frames():
            found = kind_of(frame)
            rate = found.rate
            if found != kind:
                if held:
                    yield start, kind.rate, joined(held, kind)
                    held = []
                check_format(rate, found.channels, name=self.name)
            if self.position < 0:
                self.position = frame.pts or 0
                if self.position > self.sought:
                    raise BadAudio("corrupt_audio", f"{self.name}: frames are missing at {self.sought / rate:.2f} s")
            if found[:2] != kind[:2]:
                origin = frame.time and frame.time - self.position / rate
            kind = found
            if is_flac and frame.pts not in (None, self.position):
                raise BadAudio("corrupt_audio", f"{self.name}: frames are missing at {self.position / rate:.2f} s")
            if gaps and frame.time is not None:
                missing = round((frame.time - (origin or 0.0)) * rate) - self.position
                if missing > GAP_SECONDS * rate:
                    if held:
                        yield start, rate, joined(held, kind)
                        held = []
                    yield from self._silence(missing, kind)
            if not held:
                start = self.position
            if frame.samples:
                held.append(planes_of(frame, kind))
            self.position += frame.samples
            if self.position - start >= BLOCK_FRAMES:
                yield start, rate, joined(held, kind)
                held = []
        if held:
            yield start, kind.rate, joined(held, kind)
        if frame is not None:
            self._check_complete(self.position / rate, (frame.time or 0.0) + frame.samples / rate)

    def _silence(self, frames: int, kind: Kind) -> Iterator[tuple[int, int, np.ndarray]]:
        """As many frames in pieces, so that a time stamp in the far future takes no memory."""
        dtype = dtype_of(kind)
        piece = np.full((kind.channels, 1 << 14), 128 if dtype == np.uint8 else 0, dtype)
        for at in range(0, frames, piece.shape[1]):
            part = piece[:, : frames - at]
            yield self.position, kind.rate, part
            self.position += part.shape[1]

    def _frames(self) -> Iterator[Any]:
        """Decoded frames. A packet that fails is corrupt_audio, or truncated_audio where it is the last one."""
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
        """The packets of the track, then the empty one that flushes the decoder."""
        try:
            for packet in self.container.demux(self.track):
                if packet.size or packet.pts is None:  # any other empty packet would end the decoder
                    yield packet
        except av.FFmpegError as err:
            raise BadAudio("corrupt_audio", f"{self.name}: {err.strerror}") from None
        except IndexError:  # PyAV, where a container begins a new track on the way
            raise BadAudio("corrupt_audio", f"{self.name}: a track that the header does not know") from None

    def _check_complete(self, seconds: float, end_seconds: float) -> None:
        """seconds: what was decoded; end_seconds: by the last time stamp. A hole has the end, but not all before it."""
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


def _is_sync(packet: Any) -> bool:
    head = bytes(packet)[:2]
    return len(head) == 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
