"""The audio track of any container as arrays of samples, each at its place in time, and what of it is lost.

PyAV reads it, limited so that it opens no other file and hides no damage. It decodes all formats; libsndfile 1.2 is not
used for any. Measured: of joined ogg and mp3 files libsndfile reads only the first, without an error; it cannot read
flac of unknown length (from a pipe); and it takes three times as long for opus.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple, NoReturn

import av
import numpy as np
from av.stream import Disposition

from pipeline.audio.frames import Kind, dtype_of, joined, kind_of, planes_of
from pipeline.audio.headers import COMPLETE, Missing, empty_edits, looks_like_audio, mp3_declared_seconds
from pipeline.audio.packets import Damage, PacketDecoder
from pipeline.schemas import SAMPLE_RATE, BadAudio

# Only these demuxers and decoders run. Playlists (hls, dash, concat, sdp ...) do not: they open files and addresses.
FORMATS = (
    "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,"
    "amr,amrnb,amrwb,mpegts,mpeg,avi,flv,ac3,eac3,dts,nistsphere,ape,wv,tta,voc,gsm,dss,mpc,mpc8"
)
CODECS = (
    "pcm_s8,pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_s64le,pcm_f32le,pcm_f32be,"
    "pcm_f64le,pcm_f64be,pcm_mulaw,pcm_alaw,adpcm_ima_wav,adpcm_ima_qt,adpcm_ms,adpcm_swf,adpcm_yamaha,flac,alac,"
    "mp1float,mp2,mp2float,mp3,mp3float,aac,aac_latm,opus,libopus,vorbis,amrnb,amrwb,libopencore_amrnb,"
    "libopencore_amrwb,wmav1,wmav2,wmapro,wmavoice,ac3,eac3,dca,gsm,gsm_ms,speex,g722,g726,nellymoser,ape,wavpack,tta,"
    "dss_sp,mpc7,mpc8"
)
OPTIONS = {"format_whitelist": FORMATS, "codec_whitelist": CODECS, "protocol_whitelist": "none"}
# Containers whose declared duration is that of the audio, and how much of it may be the delay of an encoder.
TRACK_DURATION = {"flac", "aiff", "au", "ogg", "nistsphere", "mov,mp4,m4a,3gp,3g2,mj2", "asf", "tta", "wv", "ape"}
CODEC_DELAY_SECONDS = 0.25
# Containers whose time stamps may leave gaps on purpose (a recorder on pause, silence that was not sent). A gap is
# filled with silence, so that times stay those of the recording. In ogg, flac and asf a gap is damage; in others it
# means something only where bytes are missing or a packet has failed.
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
GAPS = {MP4, "matroska,webm"}
GAP_IS_DAMAGE = {"ogg", "flac", "asf"}
GAP_SECONDS = 0.1  # less is jitter
# Bare frames have no time stamps: what is missing is estimated by its bytes. So it is for avi, which counts packets.
BARE = {"mp3", "aac", "ac3", "eac3", "amr", "amrnb", "amrwb", "avi"}
LOST_SECONDS = 0.1  # less damage than this by an estimate is a click
MAX_STAMP_ERROR = 10  # a time stamp that jumps so many times further than the missing bytes reach is wrong

IO_BYTES = 1 << 16
BLOCK_FRAMES = 1 << 16  # at the native rate
SEEK_WARM_UP_SECONDS = 0.25  # audio that the resampler gets before the first sample that is wanted


class Lost(NamedTuple):
    """A stretch of a track that is not heard, or not known how it was. start: in seconds.

    seconds: its length; 0 if it is not known. Within the track it is silence; behind the end there are no frames of it.
    """

    start: float
    seconds: float
    reason: str  # a key of schemas.REASONS
    detail: str  # for people


def _refusing(name: str) -> Callable[..., NoReturn]:
    """For io_open. A method would not do: track and container, with its file, would wait for the garbage collector."""

    def refuse(url: str, *_: object) -> NoReturn:
        raise BadAudio("not_audio", f"{name}: refers to another file, {url!r}")

    return refuse


class AudioTrack:
    """An audio track of `file`, which is open, can seek and is at its start. A context manager.

    Index 0 of its frames is the start of the container's time line, also where the track begins later. `name` is what
    error messages call the recording. number: of the track among all audio tracks, from 0; None: the first one that is
    marked as the default and can be decoded, else the first one that can be decoded. Opening raises BadAudio:
    not_audio, corrupt_audio, or unsupported_audio if there is no track of this number.

    missing: what the header declares and the file does not have.

    lost: the stretches so far that are not heard because the bytes there are damaged or missing.
    """

    def __init__(self, file: BinaryIO, name: str, number: int | None = None, missing: Missing = COMPLETE) -> None:
        self.name, self._missing = name, missing
        self.lost: list[Lost] = []
        self._clicks = 0.0  # seconds of damage that was too short to count
        head = file.read(64)
        self.mp3_seconds = mp3_declared_seconds(file)
        file.seek(0)
        try:
            self.container: Any = av.open(
                file, options=dict(OPTIONS), metadata_errors="replace", buffer_size=IO_BYTES, io_open=_refusing(name)
            )
        except av.FFmpegError as err:
            self._refuse_empty(Damage())
            reason = "corrupt_audio" if looks_like_audio(head) else "not_audio"
            raise BadAudio(reason, f"{name}: {err.strerror}") from None
        self.position = 0  # index of the next frame
        self.origin = 0.0  # time stamp of index 0, in seconds
        self.late = 0.0  # seconds of silence before the first frame
        self.empty: list[tuple[float, float]] = []  # (start, end) in seconds: where an edit list plays nothing
        try:
            self.track = self._chosen(number)
            self._decoder = PacketDecoder(self.container, self.track, file, name)
            if self.container.format.name != "flac":  # whose first frame is the start, or it is missing
                self.origin = _seconds(self.track) - self._late(_seconds(self.track))
            if self.container.format.name == MP4:
                at = file.tell()  # FFmpeg reads on from here
                self.empty = empty_edits(file, file.seek(0, 2), self.track.id)
                file.seek(at)
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> AudioTrack:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

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
        landed = self._landing(frame, rate)
        if landed is None:  # perhaps behind the end, or damage is in the way: decoding from the start tells
            self.container.seek(self._shift(rate), stream=self.track)
            return 0
        self.container.seek(frame + self._shift(rate), stream=self.track)
        self._decoder.begun = landed > 0
        self.position, self.late = landed, self._late(_seconds(self.track))
        return frame

    def _landing(self, frame: int, rate: int) -> int | None:
        """With which frame decoding begins after a seek to `frame`; None if that is behind it."""
        try:
            self.container.seek(frame + self._shift(rate), stream=self.track)
            first = next(self.container.decode(self.track), None)
        except av.FFmpegError:
            return None
        landed = None if first is None or first.pts is None else first.pts - self._shift(rate)
        return landed if landed is not None and landed <= frame else None

    def planes(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield blocks to the end: (index of the first frame, rate in Hz, samples [channels, frames]).

        The samples have the type that the decoder gives. A block has one rate, one type and about BLOCK_FRAMES frames.
        Damaged stretches are silence at their place in time, and stand in `lost`; so does what is missing at the end.
        If the rate changes, the index is the one that this place has at the new rate.

        Raises:
            BadAudio: nothing can be decoded. corrupt_audio, or truncated_audio if the file ends before its declared
                end; unsupported_audio, the rate or the number of channels is out of range.
        """
        block, last, kind = _Block(), None, Kind(0, 0, "")
        for frame, damage in self._decoder:
            if frame is None:
                yield from block.taken()
                if last is None:
                    self._refuse_empty(damage)
                else:
                    end = (last.time or 0.0) + last.samples / kind.rate
                    self._note_end(self.position / kind.rate, end, damage)
                return
            last, kind = frame, kind_of(frame)
            if kind != block.kind:
                yield from block.taken()
                self._place(frame, kind, block.kind, damage)
                block.kind = kind
            missing = self._missing_frames(frame, kind.rate, damage)
            is_exact = damage.failure or (damage.bytes and self.container.format.name in BARE)
            if missing > GAP_SECONDS * kind.rate or (is_exact and missing > 0):
                yield from block.taken()
                self._note_gap(missing / kind.rate, kind.rate, damage)
                yield from self._silence(missing, kind)
            elif damage.failure:
                self._lose(self.position / kind.rate, 0.0, "corrupt_audio", damage.failure)
            block.add(frame, self.position)
            self.position += frame.samples
            if block.count >= BLOCK_FRAMES:
                yield from block.taken()

    def _place(self, frame: Any, kind: Kind, before: Kind, damage: Damage) -> None:
        """Find out where a frame of a new kind is: its index at the new rate, and which time stamp index 0 has."""
        if before.rate and kind.rate != before.rate:
            self.position = round(self.position * kind.rate / before.rate)
        if frame.time is not None and (kind.rate, kind.channels) != (before.rate, before.channels) and not damage:
            late = 0.0 if self.position else self._late(frame.time)
            if self.container.format.name != "flac":
                self.origin = frame.time - self.position / kind.rate - late

    def _shift(self, rate: int) -> int:
        """By how many frames the time stamps of a track that can seek are ahead of the indices."""
        return round(self.origin * rate)

    def _missing_frames(self, frame: Any, rate: int, damage: Damage) -> int:
        """How many frames are missing before this one, by its time stamp or by the bytes that are no frames.

        0 where a time stamp means nothing, or where it goes back: other audio follows, which begins to count anew.
        """
        kind = self.container.format.name
        good = self._decoder.good
        by_bytes = round(damage.bytes * self.position / good) if good else 0
        if kind in BARE and self.position:
            return by_bytes
        if frame.time is None:
            return by_bytes
        by_stamp = round((frame.time - self.origin) * rate) - self.position
        if kind in GAPS or not self.position:
            return by_stamp  # the start of a track may be late in any container
        if by_stamp < 0 and kind in GAP_IS_DAMAGE:
            self.origin = frame.time - self.position / rate
        if damage.bytes and by_stamp > MAX_STAMP_ERROR * (by_bytes + rate):
            return by_bytes
        return by_stamp if damage or kind in GAP_IS_DAMAGE else 0

    def _note_gap(self, seconds: float, rate: int, damage: Damage) -> None:
        """Write down why there are `seconds` of silence from here on: the track begins late, or something is lost."""
        kind = self.container.format.name
        if not self.position and kind != "flac" and not (damage.failure and kind not in BARE):
            self.late = seconds
        elif damage.failure or kind in GAP_IS_DAMAGE:
            self._lose(self.position / rate, seconds, "corrupt_audio", damage.failure or "frames are missing")
        elif damage.bytes:
            self._clicks += seconds
            if self._clicks >= LOST_SECONDS:
                self._lose(self.position / rate, seconds, "corrupt_audio", "bytes that are no audio")

    def _lose(self, start: float, seconds: float, reason: str, detail: str) -> None:
        self.lost.append(Lost(start, seconds, reason, detail))

    def _silence(self, frames: int, kind: Kind) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield blocks of silence with `frames` frames in all. A time stamp far in the future takes no memory."""
        dtype = dtype_of(kind)
        silence = np.full((kind.channels, 1 << 14), 128 if dtype == np.uint8 else 0, dtype)
        for at in range(0, frames, silence.shape[1]):
            block = silence[:, : frames - at]
            yield self.position, kind.rate, block
            self.position += block.shape[1]

    def _refuse_empty(self, damage: Damage) -> None:
        """Raise BadAudio if there is a reason why nothing was decoded."""
        if self._missing:
            raise BadAudio("truncated_audio", f"{self.name}: {self._missing.detail}")
        if damage.failure:
            raise BadAudio(damage.reason or "corrupt_audio", f"{self.name}: {damage.failure}")

    def _note_end(self, seconds: float, end_seconds: float, damage: Damage) -> None:
        """Compare what was decoded with what is declared, and write down what is missing.

        seconds: of all frames. end_seconds: the end by time stamps. damage: behind the last frame.
        """
        start, declared, tolerance = self._declared()
        kind, good = self.container.format.name, self._decoder.good
        # The duration of an mp4 track may have the empty beginning in it, or not.
        missing = declared - (seconds - self.late if kind in TRACK_DURATION and kind != MP4 else seconds)
        if damage.reason:
            self._lose(seconds, max(missing, damage.seconds), damage.reason, damage.failure)
        elif self._missing:
            estimate = self._missing.seconds or seconds * self._missing.bytes / max(1, self._missing.size)
            detail = self._missing.detail
            self._lose(seconds, missing if missing > tolerance else estimate, "truncated_audio", detail)
        elif missing > tolerance and not (self.lost and missing < CODEC_DELAY_SECONDS):
            hole = end_seconds >= start + declared - tolerance
            detail = f"{seconds:.2f} s decoded, {declared:.2f} s declared"
            self._lose(seconds, missing, "corrupt_audio" if hole else "truncated_audio", detail)
        elif damage.failure:
            self._lose(seconds, damage.seconds, "truncated_audio", f"ends inside a packet: {damage.failure}")
        elif damage.bytes and good and damage.bytes * seconds / good >= 1:
            self._lose(seconds, damage.bytes * seconds / good, "corrupt_audio", "bytes that are no audio")

    def _declared(self) -> tuple[float, float, float]:
        """Return when the track begins, how long it is as declared (0: unknown), and how exact that is, in seconds."""
        kind, track = self.container.format.name, self.track
        start, declared = 0.0, 0.0
        if kind in TRACK_DURATION and track.duration and not (kind == "asf" and self._missing):
            start = _seconds(track)
            declared = float(track.duration * track.time_base) - (start if kind == "ogg" else 0.0)  # ogg: to the end
        elif kind == "mp3":
            declared = self.mp3_seconds
        elif kind in ("matroska,webm", "flv") and len(self.container.streams) == 1:
            declared = (self.container.duration or 0) / av.time_base
        codec = track.codec_context.name
        return start, declared, 1e-3 if codec == "flac" or codec.startswith("pcm_") else CODEC_DELAY_SECONDS


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
