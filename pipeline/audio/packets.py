"""The packets of an audio track become frames. What cannot be decoded, and bytes between packets, are damage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av

from pipeline.audio.headers import check_format, mpeg_frame_bytes
from pipeline.schemas import BadAudio, BadRecording

RESYNC = {"mp3", "aac"}  # other bytes may stand between the frames, and every player skips them
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")  # beginnings of such bytes that are no lost audio
# Containers that are read from the front to the back, packet after packet. Bytes between two packets that belong to
# none are damage; indexes and headers take less than LOST_BYTES, and in avi they begin with one of AVI_CHUNKS.
IN_ORDER = {"matroska,webm", "mpegts", "flv", "avi"}
LOST_BYTES = 1000
AVI_CHUNKS = (b"ix", b"idx1", b"LIST", b"JUNK", b"RIFF")
SEARCH_BYTES = 1 << 22  # how far a frame of aac is looked for behind damage


@dataclass(slots=True)
class Damage:
    """What went wrong since the last frame that was decoded. True if anything did."""

    bytes: int = 0  # that are no frames and no tag, or that belong to packets that failed
    seconds: float = 0.0  # of the packets that failed, as they say
    failure: str = ""  # why a packet failed
    reason: str = ""  # of schemas.REASONS, if the file cannot be read on

    def __bool__(self) -> bool:
        return bool(self.bytes or self.failure)


class PacketDecoder:
    """Decodes `track` of the open container of `file` from where the container is. name: of the recording, for errors.

    good: bytes of the packets so far that gave frames. begun: whether audio has come. Who moves the container behind
    its start sets it. Before that, what fails is an error; then it is damage.
    """

    def __init__(self, container: Any, track: Any, file: BinaryIO, name: str) -> None:
        self._container, self._track, self._file, self._name = container, track, file, name
        self._kind = container.format.name
        self._damage = Damage()
        self.good = 0
        self.begun = False

    def __iter__(self) -> Iterator[tuple[Any, Damage]]:
        """Yield each frame (av.AudioFrame) with the damage before it, then None with the damage at the end.

        Raises BadAudio("unsupported_audio") if the first one has an impossible format, BadRecording if the file object
        cannot read before audio has come, or says that the file is another one.
        """
        last, in_tag, at = None, False, 0
        for packet in self._packets():
            if packet.stream != self._track:
                continue
            if packet.size:
                last = packet
            at = self._found(packet, at) if self._kind == "aac" else 0
            try:
                frames = [frame for frame in packet.decode() if self._is_possible(frame, packet)]
            except av.FFmpegError as err:
                in_tag = self._note_failure(packet, err.strerror or str(err), in_tag)
                continue
            for frame in frames:
                self.begun |= frame.samples > 0
                yield frame, self._taken()
            if frames:
                self.good, in_tag = self.good + packet.size, False
        if self._kind == "mp3" and last is not None:
            whole = mpeg_frame_bytes(bytes(last)[:4])
            if last.size < whole and not self._damage.failure:
                self._damage.failure = "ends inside a frame"
        yield None, self._taken()

    def _taken(self) -> Damage:
        taken, self._damage = self._damage, Damage()
        return taken

    def _is_possible(self, frame: Any, packet: Any) -> bool:
        """Whether the format of a frame is one that audio has. A damaged one among others is taken for damage."""
        try:
            check_format(frame.sample_rate, frame.layout.nb_channels, name=self._name)
        except BadAudio as err:
            if not self.begun:
                raise
            self._note_failure(packet, err.detail, in_tag=False)
            return False
        return True

    def _note_failure(self, packet: Any, why: str, in_tag: bool) -> bool:
        """Write down that a packet cannot be decoded. in_tag: it follows a tag. Returns whether the next one does."""
        if self._kind in RESYNC and not _starts_frame(bytes(packet)[:2]):
            rest = bytes(packet).lstrip(b"\0")
            in_tag = in_tag or rest.startswith(TAGS)  # a long one is several packets
            is_padding = not rest or _starts_frame(rest)  # zeros, also with the frame behind them
            self._damage.bytes += 0 if in_tag or is_padding else packet.size
            return in_tag
        self._damage.failure = self._damage.failure or why
        self._damage.bytes += packet.size
        self._damage.seconds += float((packet.duration or 0) * packet.time_base)
        return False

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of the track, then the empty one that flushes the decoder. Bytes between them are damage.

        Where the container cannot be read any further, that is a failure before its end.
        """
        in_order = self._kind in IN_ORDER
        wanted = [stream for stream in self._container.streams if stream.type in ("audio", "video")]
        end: int | None = None  # of the packet before
        try:
            for packet in self._container.demux(*wanted) if in_order else self._container.demux(self._track):
                if in_order and packet.size and packet.pos is not None:
                    self._note_jump(end, packet.pos)
                    end = packet.pos + packet.size
                if packet.size or packet.pts is None:  # other empty packets would end the decoder
                    yield packet
        except av.FFmpegError as err:
            self._damage.failure = err.strerror or str(err)
        except IndexError:  # raised by PyAV if a new track begins after the header
            self._damage.failure = "a track that the header does not know"
        except BadRecording as err:  # the file object cannot read on
            if not self.begun or err.reason == "source_changed":
                raise
            self._damage.failure, self._damage.reason = err.detail, err.reason

    def _found(self, packet: Any, at: int) -> int:
        """Return where in a file of bare aac frames a packet ends. at: where the one before it ends.

        FFmpeg leaves out what is no frame and does not say where. So after a failure the packet is looked for; also the
        first one, because a tag may stand before it.
        """
        if at and not self._damage.failure:
            return at + int(packet.size)
        before = self._file.tell()
        self._file.seek(max(0, at))
        place = self._file.read(SEARCH_BYTES).find(bytes(packet)) if packet.size else -1
        self._file.seek(before)
        if at and place > 0:
            self._damage.bytes += place
        return at + max(0, place) + int(packet.size)

    def _note_jump(self, end: int | None, start: int) -> None:
        """Write down how many bytes lie between the end of a packet and the start of the next one."""
        between = 0 if end is None else start - end
        if between <= LOST_BYTES:
            return
        if self._kind == "avi":
            at = self._file.tell()
            self._file.seek(end or 0)
            is_index = self._file.read(4).lstrip(b"\0").startswith(AVI_CHUNKS)
            self._file.seek(at)
            if is_index:
                return
        self._damage.bytes += between


def _starts_frame(head: bytes) -> bool:
    """Whether these bytes begin as a frame of mp3 or aac does."""
    return len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
