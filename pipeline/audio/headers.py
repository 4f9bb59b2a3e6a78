"""Compares what an audio container declares with the bytes that are there, before a decoder believes it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

from pipeline.schemas import BadAudio

MIN_RATE, MAX_RATE = 1_000, 384_000  # Hz
MAX_CHANNELS = 32

MAGIC = (
    *(b"RIFF", b"RF64", b"riff", b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff", b"#!AMR", b"FLV\x01", b"NIST_1A"),
    *(b"TTA1", b"wvpk", b"MAC ", b"MPCK", b"MP+", b"\x00\x00\x01\xba"),  # the last one is an MPEG program stream
    b"\x1aE\xdf\xa3",  # Matroska
    b"\x30\x26\xb2\x75",  # ASF
    *(b"\x0b\x77", b"\xff\xf1", b"\xff\xf9"),  # AC-3, AAC in ADTS
)
# Programs that write wav to a pipe do not know its length yet. They write these: FFmpeg and others, sox, arecord.
WAV_SIZE_UNKNOWN = (0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFF00)

ZEROS_BYTES = 1 << 20  # so many bytes behind the audio are looked at: zeros say nothing

ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # a GUID

MAX_EDITS = 10_000  # of a track; more are not looked at

MP4_TOP = {b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx", b"mfra", b"udta", b"uuid"}
MP4_PARENTS = {b"moov", b"trak", b"edts", b"mdia", b"minf", b"moof", b"traf"}
MP4_DEPTH = 16  # of parents in parents, at most; real files have 4
# FFmpeg allocates 24 bytes or more for each declared sample: 50 million in a file of 50 kB took 1.8 GB and 24 s.
# A real sample takes 4 bytes in the tables. Raw PCM is an exception: its samples are declared together, read in chunks.
MP4_BYTES_PER_SAMPLE = 4

# kbit/s by (MPEG-1?, layer): the rows of ISO 11172-3 table 3-B and ISO 13818-3; layer 1 is as good as extinct
MPEG_KBITS = {
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG_KBITS[(False, 3)] = MPEG_KBITS[(False, 2)]


class Missing(NamedTuple):
    """What the header of a file declares and the file of `size` bytes does not have. False if that is nothing.

    bytes: 0 if it is not known how many. seconds: of audio; None if the header does not say.
    """

    bytes: int
    size: int
    detail: str  # for people
    seconds: float | None = None

    def __bool__(self) -> bool:
        return bool(self.detail)


COMPLETE = Missing(0, 0, "")


def check_header(file: BinaryIO, size: int, *, name: str) -> Missing:
    """Return what is missing at the end of the file. `size`: bytes of the file; its position changes.

    Raises BadAudio if the header declares what cannot be. unsupported_audio, the rate or the number of channels is out
    of range; truncated_audio, the file ends in its header; corrupt_audio, tables declare more samples than the file can
    contain. Formats that their decoder checks well enough pass.
    """
    head = _read(file, 0, 40)
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _check_wav(file, size, name)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _missing(struct.unpack_from("<I", head, 4)[0] + 8 - size, size)
    if head[:4] == b"riff" and len(head) >= 24:  # Sony Wave64: GUID, then the size of everything
        return _missing(struct.unpack_from("<Q", head, 16)[0] - size, size)
    if head[:4] == b"\x30\x26\xb2\x75":
        return _check_asf(file, size)
    if head[:4] == b"caff":
        return _check_caf(file, size, name)
    if head[:4] == b"OggS":
        return _check_ogg(file, size)
    if head[:4] == b"\x1aE\xdf\xa3":
        return _check_matroska(file, size)
    if head[4:8] in MP4_TOP:
        return _check_mp4(file, size, name)
    return COMPLETE


def check_format(rate: float, channels: int, *, name: str) -> None:
    """Raise BadAudio("unsupported_audio") if the sample rate (Hz) or the number of channels is out of range."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadAudio("unsupported_audio", f"{name}: sample rate of {rate:g} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise BadAudio("unsupported_audio", f"{name}: {channels} channels")


def looks_like_audio(head: bytes) -> bool:
    """Whether the first bytes (12 or more) are those of an audio format. If so, audio that fails to open is damaged."""
    return head.startswith(MAGIC) or head[4:8] in MP4_TOP or mpeg_frame_bytes(head) > 0


def mpeg_frame_bytes(head: bytes) -> int:
    """Bytes of the MPEG audio frame (mp2, mp3) that starts with the 4 bytes `head`; 0 if they start no such frame."""
    return _mpeg_frame(head)[0]


def mp3_declared_seconds(file: BinaryIO) -> float:
    """Seconds of an mp3 file, from the Xing or Info header in its first frame; 0 if it has none."""
    head = _read(file, 0, 10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:  # the size has 7 bits in each byte
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    frame = _read(file, start, 64)
    length, samples, rate = _mpeg_frame(frame)
    for mark in (b"Xing", b"Info"):
        at = frame.find(mark)
        if length and 0 <= at <= len(frame) - 12:
            flags, count = struct.unpack_from(">4xII", frame, at)
            return float(count * samples / rate) if flags & 1 else 0.0
    return 0.0


def _mpeg_frame(head: bytes) -> tuple[int, int, int]:
    """(bytes, samples, sample rate in Hz) of the frame that starts with `head`; zeros if none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0, 0, 0
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)  # version 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer not in (2, 3) or bitrate in (0, 15) or rate == 3:
        return 0, 0, 0
    hertz = (44_100, 48_000, 32_000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    bits = MPEG_KBITS[(version == 3, layer)][bitrate] * 1000
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bits // hertz + (head[2] >> 1 & 1), samples, hertz


def _check_wav(file: BinaryIO, size: int, name: str) -> Missing:
    data = _wav_data(file, size, name)
    if data.declared is not None:
        missing = data.declared - (size - data.start)
        found = _missing(missing, size, tolerance=max(data.frame_bytes, 1) - 1)
        return found._replace(seconds=missing / data.second_bytes) if found and data.second_bytes else found
    if data.chunk_bytes == 0 and size > data.start and _chunks_end(file, data.start, size) == size:
        raise BadAudio("no_samples", f"{name}: the audio is empty, only other chunks follow")
    return COMPLETE


class _WavData(NamedTuple):
    """The audio of a wav file.

    start: byte of its first sample. declared: its bytes, None if unknown. chunk_bytes: as its own chunk says. ds64_at:
    byte of its length in RF64, None in other files. form: content of the chunk "fmt ", 16 bytes.
    """

    start: int
    declared: int | None
    chunk_bytes: int
    ds64_at: int | None
    form: bytes

    @property
    def frame_bytes(self) -> int:
        return int(struct.unpack_from("<H", self.form, 12)[0])

    @property
    def second_bytes(self) -> int:
        return int(struct.unpack_from("<I", self.form, 8)[0])


def _wav_data(file: BinaryIO, size: int, name: str) -> _WavData:
    """Find the audio. Raises BadAudio: truncated_audio if there is none, unsupported_audio as `check_format`."""
    ds64_bytes, ds64_at, form, at = 0, None, bytes(16), 12
    while at + 8 <= size:
        kind, length = struct.unpack("<4sI", _read(file, at, 8))
        body = _read(file, at + 8, 24)
        if kind == b"ds64" and len(body) >= 16:
            ds64_bytes, ds64_at = struct.unpack_from("<Q", body, 8)[0], at + 16
        if kind == b"fmt " and len(body) >= 16:
            form = body[:16]
            _, channels, rate, _, _ = struct.unpack_from("<HHIIH", body)
            check_format(rate, channels, name=name)
        if kind == b"data":
            declared = ds64_bytes if length == 0xFFFFFFFF and ds64_bytes else length
            return _WavData(at + 8, None if declared in WAV_SIZE_UNKNOWN else declared, length, ds64_at, form)
        at += 8 + length + (length & 1)
    raise BadAudio("truncated_audio", f"{name}: the file ends in its header")


def _chunks_end(file: BinaryIO, at: int, size: int) -> int:
    """Return where the chunks that begin at byte `at` end: `size` if there is nothing else."""
    while at + 8 <= size:
        kind, length = struct.unpack("<4sI", _read(file, at, 8))
        end = at + 8 + length
        if not re.fullmatch(rb"[A-Za-z0-9_][\x20-\x7e]{3}", kind) or kind in (b"RIFF", b"RF64") or end > size:
            return at
        at = min(end + (length & 1), size)
    return at


def believed(file: BinaryIO, size: int, name: str) -> tuple[BinaryIO, int]:
    """Return the file as a decoder should see it, and how many bytes behind the audio are neither heard nor known.

    A wav file with a second or more behind the audio that it declares is audio to its end: the length has wrapped at
    4 GiB, or another recording of the same form follows. So is an RF64 file whose lengths are zero. Other formats are
    as they are.
    """
    head = _read(file, 0, 12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return file, 0
    data = _wav_data(file, size, name)
    if data.declared is None:
        is_empty = data.ds64_at is not None and data.chunk_bytes == 0xFFFFFFFF and size > data.start
        patched = _Patched(file, data.ds64_at or 0, struct.pack("<Q", size - data.start))
        return (cast(BinaryIO, patched) if is_empty else file), 0
    end = data.start + data.declared
    behind = min(size - _chunks_end(file, at, size) for at in (end, end + (end & 1)))
    if behind <= 0 or not any(_read(file, size - behind, ZEROS_BYTES)):
        return file, 0
    again = _read(file, size - behind, 64)
    is_other = again[:4] in (b"RIFF", b"RF64") and data.form not in again
    if is_other or behind < data.second_bytes or size - behind > end + 1:
        return file, behind
    if data.ds64_at is not None:
        return cast(BinaryIO, _Patched(file, data.ds64_at, struct.pack("<Q", size - data.start))), 0
    return cast(BinaryIO, _Patched(file, data.start - 4, b"\xff" * 4)), 0  # FFmpeg then reads to the end


class _Patched:
    """A file with other bytes at one place."""

    def __init__(self, file: BinaryIO, at: int, new: bytes) -> None:
        self._file, self._at, self._new = file, at, new
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        got = self._file.read(size)
        begin, end = max(start, self._at), min(start + len(got), self._at + len(self._new))
        if begin >= end:
            return got
        return got[: begin - start] + self._new[begin - self._at : end - self._at] + got[end - start :]


def _check_asf(file: BinaryIO, size: int) -> Missing:
    """The size of the file stands in the object "file properties" of the header."""
    head = _read(file, 0, 1 << 16)
    at = head.find(ASF_FILE_PROPERTIES)
    if at < 0 or at + 48 > len(head):
        return COMPLETE
    return _missing(struct.unpack_from("<Q", head, at + 40)[0] - size, size)


def _check_caf(file: BinaryIO, size: int, name: str) -> Missing:
    at = 8
    while at + 12 <= size:
        kind, length = struct.unpack(">4sq", _read(file, at, 12))
        if kind == b"desc" and len(body := _read(file, at + 12, 32)) == 32:
            check_format(struct.unpack_from(">d", body)[0], struct.unpack_from(">I", body, 24)[0], name=name)
        if length < 0:  # unknown: only the last chunk, the data, may say so
            return COMPLETE
        at += 12 + length
    return _missing(at - size, size)


def _check_ogg(file: BinaryIO, size: int) -> Missing:
    """The last page must be complete. A page has at most 27 + 255 + 255 * 255 = 65,307 bytes."""
    tail_start = max(0, size - 65_307)
    tail = _read(file, tail_start, 65_307)
    at = tail.rfind(b"OggS")
    if at < 0:
        return COMPLETE
    segments = tail[at + 26] if at + 26 < len(tail) else 0
    table = tail[at + 27 : at + 27 + segments]
    return _missing(at + 27 + segments + sum(table) - len(tail), size)


def _check_matroska(file: BinaryIO, size: int) -> Missing:
    """The segment, which is the element after the EBML header, must be complete if it declares a length."""
    length, taken = _ebml_size(_read(file, 4, 8))
    segment = 4 + taken + max(length, 0)
    declared, header = _ebml_size(_read(file, segment + 4, 8))
    if declared >= 0 and _read(file, segment, 4) == b"\x18\x53\x80\x67":
        return _missing(segment + 4 + header + declared - size, size)
    return COMPLETE


def _ebml_size(data: bytes) -> tuple[int, int]:
    """(value, number of its bytes) of an EBML size at the start of `data`. The value -1 means unknown."""
    length = 9 - data[0].bit_length() if data else 9
    if length > len(data):
        return -1, length
    value = int.from_bytes(data[:length], "big") & ((1 << 7 * length) - 1)
    return (-1 if value == (1 << 7 * length) - 1 else value), length


def _check_mp4(file: BinaryIO, size: int, name: str) -> Missing:
    samples, seen, end, missing = 0, set(), 0, 0
    for kind, at, length in _mp4_boxes(file, 0, size, top=True):
        seen.add(kind)
        missing, end = max(missing, at + length - size), max(end, at + length)
        if kind == b"stbl":
            samples += _mp4_table_samples(file, at, min(at + length, size))
        elif kind == b"trun" and len(body := _read(file, at, 8)) == 8:
            samples += struct.unpack_from(">I", body, 4)[0]
        if samples * MP4_BYTES_PER_SAMPLE > size:
            raise BadAudio("corrupt_audio", f"{name}: {samples} samples declared in {size} bytes")
    if b"moov" not in seen:
        raise BadAudio("truncated_audio", f"{name}: the file ends before its sample tables")
    if b"moof" in seen and _holds(file, end, size, b"moof"):
        return Missing(size - end, end, f"{size - end} bytes behind byte {end} cannot be read")
    return _missing(missing, size)


def empty_edits(file: BinaryIO, size: int, track: int) -> list[tuple[float, float]]:
    """When nothing is played in the middle of a track of an mp4 file, by its edit list: (start, end) in seconds.

    track: its id. FFmpeg knows empty edits at the beginning only; later ones it fills with audio from elsewhere.
    """
    scale, number, edits = 0, 0, []
    for kind, at, length in _mp4_boxes(file, 0, size, top=True) if _read(file, 4, 4) in MP4_TOP else ():
        if kind == b"mvhd":
            scale = _by_version(_read(file, at, 24), ">12xI", ">20xI")[0]
        elif kind == b"tkhd":
            number = _by_version(_read(file, at, 24), ">12xI", ">20xI")[0]
        elif kind == b"elst" and number == track:
            body = _read(file, at, min(length, MAX_EDITS * 20))
            form = ">IiI" if body[:1] == b"\0" else ">QqI"
            whole = 8 + (len(body) - 8) // struct.calcsize(form) * struct.calcsize(form)
            edits = [(duration, media) for duration, media, _ in struct.iter_unpack(form, body[8:whole])]
    found, at_tick, begun = [], 0, False
    for duration, media in edits if scale else ():
        begun |= media >= 0
        if begun and media < 0:
            found.append((at_tick / scale, (at_tick + duration) / scale))
        at_tick += duration
    return found


def _by_version(body: bytes, first: str, second: str) -> tuple[int, ...]:
    """Numbers of a box whose fields are longer in version 1; zeros if it is too short."""
    form = second if body[:1] == b"\x01" else first
    return struct.unpack_from(form, body.ljust(32, b"\0"))


def _holds(file: BinaryIO, at: int, end: int, mark: bytes) -> bool:
    """Whether the bytes from `at` to `end` contain `mark`."""
    tail = b""
    while at < end:
        tail = tail[-len(mark) :] + _read(file, at, min(1 << 20, end - at))
        if mark in tail:
            return True
        at += 1 << 20
    return False


def _mp4_table_samples(file: BinaryIO, at: int, end: int) -> int:
    """How many samples of a track a decoder indexes one by one: 0 for raw PCM."""
    samples, is_pcm = 0, False
    for kind, body_at, _ in _mp4_boxes(file, at, end):
        body = _read(file, body_at, 16)
        if kind == b"stts" and len(body) == 16:
            entries, _, ticks = struct.unpack_from(">III", body, 4)
            is_pcm = entries == 1 and ticks == 1
        elif kind == b"stsz" and len(body) >= 12:
            samples = struct.unpack_from(">I", body, 8)[0]
    return 0 if is_pcm else samples


def _mp4_boxes(
    file: BinaryIO, at: int, end: int, *, top: bool = False, depth: int = 0
) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start of the body, length of the body) of all boxes in [at, end), parents before their children."""
    while at + 8 <= end:
        length, kind = struct.unpack(">I4s", _read(file, at, 8))
        header = 8
        if length == 1 and at + 16 <= end:
            length, header = struct.unpack(">Q", _read(file, at + 8, 8))[0], 16
        if length < header or (top and kind not in MP4_TOP):  # not a box: bytes after the last one
            return
        yield kind, at + header, length - header
        if kind in MP4_PARENTS and depth < MP4_DEPTH:
            yield from _mp4_boxes(file, at + header, min(at + length, end), depth=depth + 1)
        at += length


def _missing(missing: int, size: int, *, tolerance: int = 0) -> Missing:
    return Missing(missing, size, f"{missing} declared bytes are missing") if missing > tolerance else COMPLETE


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)
