"""What pipeline.audio.headers promises."""

from __future__ import annotations

import io
import struct

import pytest

from pipeline.audio.decode import contents
from pipeline.audio.headers import (
    MP4_BYTES_PER_SAMPLE,
    WAV_SIZE_UNKNOWN,
    check_format,
    check_header,
    looks_like_audio,
    mp3_declared_seconds,
    mpeg_frame_bytes,
)
from pipeline.schemas import BadAudio
from tests.support.audio_files import KINDS, encoded, ffmpeg, id3, mp4_with_declared_samples, patched, tone

SEGMENT = encoded("webm").index(b"\x18\x53\x80\x67") + 4  # where the size of Matroska's outermost element stands


def reason_of(data: bytes) -> str | None:
    """Why a file is refused, or "truncated_audio" if bytes of it are missing."""
    try:
        missing = check_header(io.BytesIO(data), len(data), name="x")
    except BadAudio as err:
        return err.reason
    return "truncated_audio" if missing else None


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_pass(kind: str) -> None:
    assert reason_of(encoded(kind)) is None
    assert looks_like_audio(encoded(kind)[:64]) == (kind != "mpegts")  # which is told only by a byte every 188


@pytest.mark.parametrize(
    "kind", ["wav", "wav_24", "rf64", "w64", "caf", "m4a", "mp4", "mp4_fragments", "opus", "vorbis", "webm", "mkv"]
)
@pytest.mark.parametrize("share", [0.95, 0.5, 0.2])
def test_files_cut_in_the_middle_are_truncated(kind: str, share: float) -> None:
    data = encoded(kind)
    assert reason_of(data[: int(len(data) * share)]) == "truncated_audio"


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_wav_may_miss_less_than_a_frame(missing: int) -> None:
    frame_bytes = 2
    assert reason_of(encoded("wav")[:-missing]) == (None if missing < frame_bytes else "truncated_audio")


@pytest.mark.parametrize("size", WAV_SIZE_UNKNOWN)
def test_wav_sizes_written_on_a_pipe_mean_unknown(size: int) -> None:
    assert reason_of(patched(encoded("wav"), 40, struct.pack("<I", size))) is None


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x80000000, 2_000_000_000, 64_002])
def test_wav_that_declares_more_than_it_has_is_truncated(size: int) -> None:
    assert reason_of(patched(encoded("wav"), 40, struct.pack("<I", size))) == "truncated_audio"


@pytest.mark.parametrize(
    ("at", "field"), [(24, b"\0\0\0\0"), (24, b"\xff\xff\xff\xff"), (22, b"\xff\0"), (22, b"\0\0"), (24, b"\x10\0\0\0")]
)
def test_wav_with_impossible_rate_or_channels_is_unsupported(at: int, field: bytes) -> None:
    assert reason_of(patched(encoded("wav"), at, field)) == "unsupported_audio"


def test_wav_that_ends_in_its_header_is_truncated() -> None:
    assert reason_of(encoded("wav")[:30]) == "truncated_audio"


@pytest.mark.parametrize(
    ("rate", "channels", "good"), [(8_000, 1, True), (384_000, 32, True), (0, 1, False), (16_000, 33, False)]
)
def test_rate_and_channel_limits(rate: int, channels: int, good: bool) -> None:
    if good:
        check_format(rate, channels, name="x")
    else:
        with pytest.raises(BadAudio, match="unsupported_audio"):
            check_format(rate, channels, name="x")


@pytest.mark.parametrize("count", [100_000, 50_000_000, 0x7FFFFFFF, 0xFFFFFFF0])
def test_mp4_tables_that_declare_more_than_the_file_holds_are_corrupt(count: int) -> None:
    assert reason_of(mp4_with_declared_samples(encoded("m4a"), count)) == "corrupt_audio"


def test_mp4_fragments_that_declare_more_than_the_file_holds_are_corrupt() -> None:
    data = encoded("mp4_fragments")
    assert reason_of(patched(data, data.index(b"trun") + 8, b"\x05\0\0\0")) == "corrupt_audio"


def test_mp4_with_a_long_box_is_read_to_its_end() -> None:
    """As FFmpeg writes more than 4 GB: the box `free` before `mdat` becomes the first half of a 64-bit header."""
    data = encoded("m4a")
    at = data.index(b"free") - 4
    (length,) = struct.unpack_from(">I", data, at + 8)
    assert data[at + 12 : at + 16] == b"mdat"
    data = patched(data, at, struct.pack(">I4sQ", 1, b"mdat", length + 8))
    assert reason_of(data) is None
    assert reason_of(data[:-1000]) == "truncated_audio"
    assert reason_of(data[: at + 5000]) == "truncated_audio"


def test_raw_samples_in_mov_are_many_and_no_lie() -> None:
    data = ffmpeg(tone(16_000, 2.0), 16_000, "mov", "pcm_s16le", {})
    assert len(data) < 32_000 * MP4_BYTES_PER_SAMPLE
    assert reason_of(data) is None
    assert reason_of(data[:-2000]) == "truncated_audio"


@pytest.mark.parametrize(
    ("kind", "at", "unknown"),
    [("caf", encoded("caf").index(b"data") + 4, b"\xff" * 8), ("webm", SEGMENT, b"\x01" + b"\xff" * 7)],
)
def test_lengths_that_a_writer_on_a_pipe_leaves_open_pass(kind: str, at: int, unknown: bytes) -> None:
    data = patched(encoded(kind), at, unknown)
    assert data != encoded(kind)
    assert reason_of(data) is None
    assert reason_of(data[: len(data) // 2]) is None


def test_mp4_boxes_that_are_nested_without_end_are_one_bad_recording() -> None:
    """A file of 24 kB. Too deep a recursion is the error of no recording."""
    boxes = b"".join(struct.pack(">I4s", 8 * left, b"moov") for left in range(3000, 0, -1))
    with pytest.raises(BadAudio, match=r"^corrupt_audio: x: "):
        contents(struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + boxes, name="x")


def test_mp4_may_end_with_junk_but_not_without_tables() -> None:
    data = encoded("m4a")
    tables = data.index(b"moov") - 4
    assert reason_of(data + b"\0" * 500) is None
    assert reason_of(data[:tables]) == "truncated_audio"


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"\xff\xfb\x90\x64", 417),  # MPEG-1 layer 3, 128 kbit/s, 44.1 kHz: 144 * 128000 / 44100
        (b"\xff\xfb\x92\x64", 418),  # the same, padded
        (b"\xff\xf3\x68\xc4", 216),  # MPEG-2 layer 3, 48 kbit/s, 16 kHz: 72 * 48000 / 16000
        (b"\xff\xfd\x84\x04", 384),  # MPEG-1 layer 2, 128 kbit/s, 48 kHz: 144 * 128000 / 48000
        (b"\xff\xe3\x48\xc4", 288),  # MPEG-2.5 layer 3, 32 kbit/s, 8 kHz: 72 * 32000 / 8000
        (b"\xff\xf1\x50\x80", 0),  # ADTS
        (b"TAG!", 0),
        (b"\xff", 0),
    ],
)
def test_mpeg_frame_lengths_are_those_of_the_standard(head: bytes, length: int) -> None:
    assert mpeg_frame_bytes(head) == length


def test_only_mp3_files_with_a_xing_header_declare_their_length() -> None:
    assert 2.0 <= mp3_declared_seconds(io.BytesIO(encoded("mp3"))) < 2.1
    assert 2.0 <= mp3_declared_seconds(io.BytesIO(id3() + encoded("mp3"))) < 2.1
    assert mp3_declared_seconds(io.BytesIO(encoded("mp3_plain"))) == 0
    assert mp3_declared_seconds(io.BytesIO(encoded("wav"))) == 0


@pytest.mark.parametrize("text", [b"", b"just text", b"<html><body>", b"\0" * 64, b'{"text": "a"}'])
def test_text_does_not_look_like_audio(text: bytes) -> None:
    assert not looks_like_audio(text)
