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
from av.stream import Disposition

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
RESYNC = {"mp3", "aac"}  # bare frames: other bytes may stand between them, and every player skips them
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")  # beginnings of such bytes that are no lost audio
LOST_BYTES = 1000  # between two packets of the only track of Matroska; cluster headers and cues take less

IO_BYTES = 1 << 16
BLOCK_FRAMES = 1 << 16  # at the native rate
SEEK_WARM_UP_SECONDS = 0.25  # audio that the resampler gets before the first sample that is wanted


class AudioTrack:
    """An audio track of `file`, which is open, can seek and is at its start. A context manager.

    Index 0 of its frames is the start of the container's time line, also where the track begins later. `name` is what
    error messages call the recording. number: of the track among all audio tracks, from 0; None: the first one that is
    marked as the default and can be decoded, else the first one that can be decoded. Opening raises BadAudio:
    not_audio, corrupt_audio, or unsupported_audio if there is no track of this number.

    lost: (start, length) in seconds of the stretches so far that are silence because the bytes there are damaged.
    """

    def __init__(self, file: BinaryIO, name: str, number: int | None = None) -> None:
        self.name = name
        self.lost: list[tuple[float, float]] = []
        self._good = self._skipped = 0  # bytes of frames; bytes since the last frame that are none and no tag
        self._jumped = False  # bytes are missing before this packet
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
        self.late = 0.0  # seconds of silence before the first frame
        try:
            self.track = self._chosen(number)
            if self.container.format.name != "flac":  # whose first frame is the start, or it is missing
                self.origin = _seconds(self.track) - self._late(_seconds(self.track))
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> AudioTrack:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def _refuse(self, url: str, *_: object) -> NoReturn:
        raise BadAudio("not_audio", f"{self.name}: refers to another file, {url!r}")

    @property
    def tracks(self) -> list[int]:
        """The numbers of the audio tracks that can be decoded."""
        return [number for number, track in enumerate(self.container.streams.audio) if _is_decodable(track)]

    def channels(self, number: int) -> int:
        """The number of channels of an audio track, from the header."""
        return int(self.container.streams.audio[number].codec_context.channels)

    def _chosen(self, number: int | None) -> Any:
        kind, audio, usable = self.container.format.name, self.container.streams.audio, self.tracks
        if not audio:
            raise BadAudio("not_audio", f"{self.name}: no audio in this {kind}")
        if number is not None and number >= len(audio):
            raise BadAudio("unsupported_audio", f"{self.name}: audio track {number} of {len(audio)}")
        marked = [index for index in usable if audio[index].disposition & Disposition.default]
        wanted = [number] if number is not None else marked or usable
        if not set(wanted) & set(usable):
            raise BadAudio("not_audio", f"{self.name}: no decoder for the audio in this {kind}")
        self.number = wanted[0]
        track = audio[self.number]
        track.codec_context.thread_count = 1
        if track.codec_context.name == "flac":
            track.codec_context.options = {"err_detect": "crccheck+explode"}
        return track

    def _late(self, start: float) -> float:
        """Return how many seconds after the start of the recording the track begins. start: its first time stamp.

        In the containers of GAPS time stamps count from the start of the recording. In others only their differences
        mean something: a stream that somebody joined midway begins at any time.
        """
        first = 0.0
        if self.container.format.name not in GAPS:
            start = _seconds(self.track)
            known = self.container.start_time is not None and self.track.start_time is not None
            first = self.container.start_time / av.time_base if known else start
        return start - first if start - first > GAP_SECONDS else 0.0

    def seek(self, first: int) -> int:
        """Move to shortly before the 16 kHz sample `first`. Returns the index of the native frame to begin with.

        Only PCM and flac seek to a known frame; the others stay at the start, frame 0. The frame is a multiple of
        rate / gcd(rate, 16 kHz): a resampler that begins there is in phase with one that began at the start. With
        several channels it is a whole second, since each is mixed by itself.
        """
        codec, rate = self.track.codec_context.name, self.track.codec_context.sample_rate
        if not (codec == "flac" or codec.startswith("pcm_")) or not rate or self.track.time_base != Fraction(1, rate):
            return 0
        unit = rate if self.channels(self.number) > 1 else rate // math.gcd(rate, SAMPLE_RATE)
        frame = int(first * rate / SAMPLE_RATE - SEEK_WARM_UP_SECONDS * rate) // unit * unit
        if frame <= 0:
            return 0
        try:
            self.container.seek(frame + self._shift(rate), stream=self.track)
        except av.FFmpegError:  # perhaps behind the end: decoding from the start tells
            self.container.seek(self._shift(rate), stream=self.track)
            return 0
        self.position, self.sought, self.late = -1, frame, self._late(_seconds(self.track))
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
            if missing > GAP_SECONDS * kind.rate or (self._skipped and missing > 0):
                yield from block.taken()
                if not self.position:
                    self.late = missing / kind.rate
                elif self._skipped or self._jumped:
                    self.lost.append((self.position / kind.rate, missing / kind.rate))
                yield from self._silence(missing, kind)
            self._skipped, self._jumped = 0, False
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
            self.position = (frame.pts or 0) - self._shift(kind.rate)
            if self.position > self.sought:
                self._refuse_order(self.sought / kind.rate)
        elif frame.time is not None and (kind.rate, kind.channels) != (before.rate, before.channels):
            late = 0.0 if self.position else self._late(frame.time)
            if self.container.format.name != "flac":
                self.origin = frame.time - self.position / kind.rate - late

    def _shift(self, rate: int) -> int:
        """By how many frames the time stamps of a track that can seek are ahead of the indices."""
        return round(self.origin * rate)

    def _check_order(self, frame: Any, rate: int) -> None:
        if self.track.codec_context.name != "flac" or frame.pts is None:
            return
        is_start = not self.position and self.container.format.name != "flac"
        if frame.pts - self._shift(rate) != self.position and not is_start:
            self._refuse_order(self.position / rate)

    def _refuse_order(self, seconds: float) -> NoReturn:
        raise BadAudio("corrupt_audio", f"{self.name}: frames are missing at {seconds:.2f} s")

    def _missing_frames(self, frame: Any, rate: int) -> int:
        """By how many frames the time stamp is ahead of the frames so far, in a container where gaps mean silence.

        Bare frames have no time stamps that mean something: there it is what the skipped bytes would have been.
        """
        if self._skipped and self.position and self._good:
            return round(self._skipped * self.position / self._good)
        if frame.time is None or (self.container.format.name not in GAPS and self.position):
            return 0  # where time stamps mean little, only the start of the track may be late
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
        resync, in_tag = self.container.format.name in RESYNC, False
        is_alone = self.container.format.name == "matroska,webm" and len(self.container.streams) == 1
        for packet in self._packets():
            if failure and packet.size:
                raise failure
            if is_alone and last is not None and packet.size and None not in (packet.pos, last.pos):
                self._jumped |= packet.pos - last.pos - last.size > LOST_BYTES
            last = packet if packet.size else last
            try:
                frames = packet.decode()
            except av.FFmpegError as err:
                if resync and not _is_sync(packet):
                    skipped = bytes(packet).lstrip(b"\0")  # without padding
                    in_tag = in_tag or skipped.startswith(TAGS)  # a long one is several packets
                    self._skipped += 0 if in_tag else len(skipped)
                else:
                    failure = BadAudio("corrupt_audio", f"{self.name}: {err.strerror}")
                continue
            yield from frames
            self._good, in_tag = self._good + packet.size, False
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
            start = _seconds(track)
            declared = float(track.duration * track.time_base) - (start if kind == "ogg" else 0.0)  # ogg: to the end
            seconds -= self.late
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


def _seconds(track: Any) -> float:
    """Return the first time stamp of a track in seconds; 0 if the container does not say."""
    return float((track.start_time or 0) * track.time_base)


def _is_decodable(track: Any) -> bool:
    return track.codec_context is not None and track.codec_context.name in CODECS.split(",")


def _is_sync(packet: Any) -> bool:
    head = bytes(packet)[:2]
    return len(head) == 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
