"""What pipeline.audio.decode promises."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.decode import contents, decode_all, stream
from pipeline.audio.track import Lost
from pipeline.schemas import BadAudio
from tests.support.audio_files import (
    FFMPEG,
    KINDS,
    LOSSLESS,
    encoded,
    ffmpeg,
    mp4_with_declared_samples,
    patched,
    sndfile,
    tone,
    with_edits,
    with_tracks,
)
from tests.support.memory import peak_kilobytes, reset_peak_kilobytes


def reason_of(data: bytes, **options: int | float) -> str:
    with pytest.raises(BadAudio) as caught:
        decode_all(data, name="x", **{"max_seconds": 60.0} | options)
    return caught.value.reason


def level(samples: np.ndarray) -> float:
    """Amplitude of the tone, away from the ends."""
    return float(np.sqrt(2 * np.mean(samples[4000:-4000].astype(np.float64) ** 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_the_same_tone_at_16_khz(kind: str) -> None:
    samples = decode_all(encoded(kind), name="x", max_seconds=60)
    channels = 2 if level(samples) < 0.26 else 1
    assert samples.dtype == np.float32
    assert (31_840 if kind == "wma" else 32_000) <= len(samples) < 33_600
    assert np.abs(samples).max() <= 1
    assert level(samples) == pytest.approx(0.3 if channels == 1 else 0.225, rel=0.1)
    spectrum = np.abs(np.fft.rfft(samples[:16_000] * np.hanning(16_000)))
    assert int(spectrum.argmax()) == 440  # 1 Hz a bin


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_equal_libsndfile_and_one_call_of_soxr(kind: str) -> None:
    frames, rate = soundfile.read(io.BytesIO(encoded(kind)), dtype="float32", always_2d=True)
    expected = soxr.resample(frames.mean(axis=1), rate, 16_000)
    assert np.abs(decode_all(encoded(kind), name="x", max_seconds=60) - expected).max() < 1e-6


def test_sixteen_bit_samples_at_16_khz_come_back_bit_for_bit() -> None:
    values = np.arange(-32_768, 32_768, dtype=np.int16)
    samples = decode_all(sndfile(values[:, None], 16_000, "FLAC", "PCM_16"), name="x", max_seconds=60)
    assert np.array_equal(np.rint(samples * 32_768).astype(np.int16), values)


@pytest.mark.parametrize("kind", ["flac_24", "mp3", "opus", "m4a"])
def test_decoding_is_deterministic(kind: str) -> None:
    first, second = (decode_all(encoded(kind), name="x", max_seconds=60) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("kind", ["wav_24", "flac_24", "mp3"])
def test_channels_are_averaged_or_one_is_selected(kind: str) -> None:
    levels = [level(decode_all(encoded(kind), name="x", max_seconds=60, channel=channel)) for channel in (None, 0, 1)]
    assert levels == pytest.approx([0.225, 0.3, 0.15], rel=0.02)


def speech_like(seconds: float, rate: int = 16_000) -> np.ndarray:
    """float32 [frames]: noise at 0.1."""
    return np.random.default_rng(7).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize("gain", [0.85, 0.89])
def test_a_mix_that_cancels_itself_is_the_louder_channel(gain: float) -> None:
    sound = speech_like(3.3, 44_100)
    inverted = sndfile(np.stack([-gain * sound, sound], axis=1), 44_100, "WAV", "FLOAT")
    assert np.array_equal(
        decode_all(inverted, name="x", max_seconds=9), decode_all(inverted, name="x", max_seconds=9, channel=1)
    )


@pytest.mark.parametrize("form", ["PCM_U8", "PCM_16", "PCM_24"])
def test_integers_that_cancel_each_other_are_heard(form: str) -> None:
    sound = speech_like(2.0)
    data = sndfile(np.stack([sound, -sound], axis=1), 16_000, "WAV", form)
    assert np.std(decode_all(data, name="x", max_seconds=9)) == pytest.approx(0.1, rel=0.05)


def test_only_the_seconds_that_cancel_themselves_are_replaced() -> None:
    sound = speech_like(3.0)
    other = np.concatenate([sound[:16_000], -sound[16_000:32_000], 0.5 * sound[32_000:]])
    mixed = decode_all(sndfile(np.stack([sound, other], axis=1), 16_000, "WAV", "FLOAT"), name="x", max_seconds=9)
    assert np.abs(mixed[:32_000] - sound[:32_000]).max() < 1e-6
    assert np.abs(mixed[32_000:] - 0.75 * sound[32_000:]).max() < 1e-6


def test_one_voice_among_eight_silent_channels_stays_a_mean() -> None:
    sound = np.zeros((16_000, 8), np.float32)
    sound[:, 3] = speech_like(1.0)
    mixed = decode_all(sndfile(sound, 16_000, "WAV", "FLOAT"), name="x", max_seconds=9)
    assert np.abs(mixed - sound[:, 3] / 8).max() < 1e-6


@pytest.mark.parametrize("start_ms", [1, 2_100, 5_750, 9_999])
def test_a_range_of_a_mix_is_the_same_as_in_the_whole(start_ms: int) -> None:
    sound = speech_like(12.0, 44_100)
    flips = np.sign(np.sin(np.arange(len(sound)) / 44_100 * 2.1)).astype(np.float32)
    data = sndfile(np.stack([sound, sound * flips], axis=1), 44_100, "FLAC", "PCM_16")
    whole = decode_all(data, name="x", max_seconds=60)
    part = decode_all(data, name="x", max_seconds=60, start_ms=start_ms)
    assert np.abs(part - whole[start_ms * 16 :]).max() < 1e-6


def test_contents_are_the_tracks_and_their_channels() -> None:
    mono, stereo = encoded("mkv"), encoded("m4a")
    data = with_tracks("matroska", [stereo, mono, stereo], default=1)
    found = contents(data, name="x")
    assert list(found.channels.items()) == [(1, 2), (0, 2), (2, 2)]
    assert (found.tracks, found.bytes_behind) == (3, 0)
    assert contents(encoded("wav"), name="x") == ({0: 1}, 1, 0)


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


HEAD = encoded("wav")[:36]  # up to the data chunk
AUDIO = encoded("wav")[44:]
TAGS = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"title")) + chunk(b"iXML", b"<x/>" * 80_000) + chunk(b"id3 ", b"x" * 99)


def decoded_seconds(data: bytes) -> tuple[float, int]:
    """Seconds that are decoded, and bytes that are said not to be heard."""
    return len(decode_all(data, name="x", max_seconds=99)) / 16_000, contents(data, name="x").bytes_behind


@pytest.mark.parametrize("tail", [TAGS, chunk(b"LIST", b"INFO"), chunk(b"PAD ", b"")])
def test_chunks_behind_an_empty_data_chunk_are_no_audio(tail: bytes) -> None:
    assert reason_of(HEAD + chunk(b"data", b"") + tail) == "no_samples"


def test_audio_behind_a_length_of_zero_is_heard() -> None:
    assert decoded_seconds(HEAD + chunk(b"data", b"") + AUDIO) == (2.0, 0)


def test_chunks_behind_the_audio_are_no_audio() -> None:
    for tail in (TAGS, TAGS[:-1], b"\0" * 5000, b"\0"):
        assert decoded_seconds(HEAD + chunk(b"data", AUDIO) + tail) == (2.0, 0)


def test_an_rf64_file_with_lengths_of_zero_is_heard_to_its_end() -> None:
    data = encoded("rf64")
    at = data.index(b"ds64") + 8
    assert data[:4] == b"RF64"
    assert decoded_seconds(patched(data, at, bytes(24))) == decoded_seconds(data) == (2.0, 0)


def test_more_than_a_second_behind_the_declared_audio_is_heard() -> None:
    wrapped = patched(HEAD + chunk(b"data", AUDIO), 40, struct.pack("<I", 6400))  # as a length that wraps at 4 GiB
    assert decoded_seconds(wrapped) == (2.0, 0)
    joined_twice = HEAD + chunk(b"data", AUDIO) + HEAD + chunk(b"data", AUDIO)
    assert decoded_seconds(joined_twice)[0] == pytest.approx(4.0, abs=0.01)
    assert decoded_seconds(joined_twice)[1] == 0


def test_bytes_behind_the_audio_that_are_not_heard_are_counted() -> None:
    other = encoded("wav_32")  # another form: it would be noise
    assert decoded_seconds(HEAD + chunk(b"data", AUDIO) + other) == (2.0, len(other))
    assert decoded_seconds(HEAD + chunk(b"data", AUDIO) + b"?!" * 50) == (2.0, 100)


@pytest.mark.parametrize(
    ("container", "codec", "first", "second"),
    [
        ("mp3", "libmp3lame", (44_100, 2), (44_100, 1)),
        ("mp3", "libmp3lame", (44_100, 1), (22_050, 2)),
        ("mp3", "libmp3lame", (16_000, 1), (48_000, 2)),
        ("adts", "aac", (44_100, 1), (48_000, 2)),
        ("adts", "aac", (48_000, 2), (16_000, 1)),
    ],
)
def test_rates_and_channels_may_change_midway(
    container: str, codec: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    parts = [ffmpeg(tone(rate, 3.0, channels), rate, container, codec, {}) for rate, channels in (first, second)]
    lost: list[Lost] = []
    found = np.concatenate(list(stream(b"".join(parts), name="x", max_seconds=60, lost=lost)))
    assert lost == []
    assert len(found) == pytest.approx(6 * 16_000, abs=3_200)
    for start in (4_000, 3 * 16_000 + 8_000):
        spectrum = np.abs(np.fft.rfft(found[start:][:32_000] * np.hanning(32_000)))
        assert int(spectrum.argmax()) == pytest.approx(880, abs=2)  # 0.5 Hz a bin: neither faster nor slower


def test_a_channel_that_begins_midway_is_heard_when_channels_are_split() -> None:
    samples = tone(44_100, 3.0, 2)
    samples[:, 0] = 0  # only the channel that the header does not know speaks
    parts = [ffmpeg(tone(44_100, 3.0, 1), 44_100, "adts", "aac", {}), ffmpeg(samples, 44_100, "adts", "aac", {})]
    data = b"".join(parts)
    assert contents(data, name="x").channels == {0: 1}
    found = np.concatenate(list(stream(data, name="x", max_seconds=60, channel=0, and_above=True)))
    assert np.abs(found[4 * 16_000 : 5 * 16_000]).max() > 0.05


def test_a_channel_that_ends_midway_is_lost_from_there_on() -> None:
    parts = [ffmpeg(tone(44_100, 3.0, channels), 44_100, "adts", "aac", {}) for channels in (2, 1)]
    lost: list[Lost] = []
    found = np.concatenate(list(stream(b"".join(parts), name="x", max_seconds=60, channel=1, lost=lost)))
    assert len(found) == pytest.approx(6 * 16_000, abs=3_200)
    assert {one.reason for one in lost} == {"unsupported_audio"}
    assert min(one.start for one in lost) == pytest.approx(3.0, abs=0.1)
    assert sum(one.seconds for one in lost) == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("kind", ["m4a", "mp4", "alac"])
@pytest.mark.parametrize(
    ("edits", "heard"),
    [
        ([(2.0, None), (3.0, 0.0)], "__##_"),
        ([(1.0, 0.0), (1.0, 2.0), (1.0, 4.0)], "#_#"),
        ([(1.0, 0.0), (2.0, None), (1.0, 1.0), (1.0, None), (1.0, 4.5)], "#__#_#"),
        ([(1.0, 3.0), (1.0, 0.0)], "_#"),
        ([(2.0, 1.0)], "#_"),
    ],
)
def test_the_edits_of_an_mp4_file_are_at_their_place_in_time(
    kind: str, edits: list[tuple[float, float | None]], heard: str
) -> None:
    container, codec, rate, channels, options = FFMPEG[kind]
    samples = tone(rate, 6.0, channels)
    samples[2 * rate : 4 * rate] = 0  # it is heard from 0 to 2 and from 4 to 6 s
    data = with_edits(ffmpeg(samples, rate, container, codec, options), edits)
    lost: list[Lost] = []
    found = np.concatenate(list(stream(data, name="x", max_seconds=60, lost=lost)))
    assert lost == []
    assert len(found) == pytest.approx(len(heard) * 16_000, abs=2_500)
    middles = [np.abs(found[second * 16_000 + 4_000 :][:8_000]).max() for second in range(len(heard))]
    assert "".join("#" if loud > 0.1 else "_" for loud in middles) == heard


@pytest.mark.parametrize("channel", [2, 99, -1])
def test_a_channel_that_is_not_there_is_unsupported(channel: int) -> None:
    assert reason_of(encoded("flac_24"), channel=channel) == "unsupported_audio"


@pytest.mark.parametrize("kind", ["wav", "flac", "flac_24", "wav_float", "aiff", "mp3", "m4a", "opus"])
@pytest.mark.parametrize(("start_ms", "end_ms"), [(0, 500), (700, 1300), (1234, None), (1900, 99_000), (1000, 1001)])
def test_a_range_is_the_same_samples_as_in_the_whole(kind: str, start_ms: int, end_ms: int | None) -> None:
    whole = decode_all(encoded(kind), name="x", max_seconds=60)
    part = decode_all(encoded(kind), name="x", max_seconds=60, start_ms=start_ms, end_ms=end_ms)
    expected = whole[start_ms * 16 : None if end_ms is None else end_ms * 16]
    assert part.shape == expected.shape
    assert np.abs(part - expected).max() < 1e-6


def test_the_limit_counts_only_the_range() -> None:
    assert len(decode_all(encoded("mp3"), name="x", max_seconds=1, start_ms=800, end_ms=1800)) == 16_000
    assert reason_of(encoded("mp3"), max_seconds=0.99, start_ms=800, end_ms=1800) == "too_long"


def test_a_range_behind_the_end_has_no_samples() -> None:
    assert reason_of(encoded("flac"), start_ms=5_000) == "no_samples"


@pytest.mark.parametrize(("start_ms", "end_ms"), [(500, 500), (500, 100), (-1, 100)])
def test_an_impossible_range_is_bad_metadata(start_ms: int, end_ms: int) -> None:
    assert reason_of(encoded("flac"), start_ms=start_ms, end_ms=end_ms) == "bad_metadata"


def test_blocks_joined_are_the_whole_and_files_need_not_be_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "speech.flac"
    path.write_bytes(sndfile(tone(44_100, 30.0), 44_100, "FLAC", "PCM_16"))
    with path.open("rb") as file:
        blocks = list(stream(file, name="x", max_seconds=60))
    assert len(blocks) > 10
    assert np.array_equal(np.concatenate(blocks), decode_all(path.read_bytes(), name="x", max_seconds=60))


FLOATS = tone(48_000, 1.0, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_invalid(value: float) -> None:
    samples = FLOATS.copy()
    samples[20_000, 1] = value
    assert reason_of(sndfile(samples, 48_000, "WAV", "FLOAT")) == "invalid_samples"


def test_samples_beyond_full_scale_are_clipped() -> None:
    samples = decode_all(sndfile(FLOATS * 1e30, 48_000, "WAV", "FLOAT"), name="x", max_seconds=60)
    assert np.isfinite(samples).all()
    assert samples.max() == 1
    assert samples.min() == -1


NO_SAMPLES = sndfile(np.zeros((0, 1), np.float32), 16_000, "WAV", "PCM_16")
BAD = {
    "zero bytes": (b"", "empty_file"),
    "text named wav": (b"this is a text about speech\n" * 50, "not_audio"),
    "zeros": (b"\0" * 5000, "not_audio"),
    "html": (b"<html><body>404 Not Found</body></html>", "not_audio"),
    "zip": (b"PK\x03\x04" + b"\x14\0" * 500, "not_audio"),
    "wav without samples": (NO_SAMPLES, "no_samples"),
    "wav cut": (encoded("wav")[:30_000], "truncated_audio"),
    "flac cut": (encoded("flac")[:9_000], "truncated_audio"),
    "mp3 cut": (encoded("mp3")[:9_000], "truncated_audio"),
    "m4a cut": (encoded("m4a")[:15_000], "truncated_audio"),
    "opus cut": (encoded("opus")[:9_000], "truncated_audio"),
    "flac with fewer frames than declared": (patched(encoded("flac"), 22, b"\0\xff\xff\xff"), "truncated_audio"),
    "2 GB declared": (patched(encoded("wav"), 40, b"\xff\xff\xff\x7f"), "truncated_audio"),
    "255 channels": (patched(encoded("wav"), 22, b"\xff\0"), "unsupported_audio"),
    "0 channels": (patched(encoded("wav"), 22, b"\0\0"), "unsupported_audio"),
    "0 Hz": (patched(encoded("wav"), 24, b"\0\0\0\0"), "unsupported_audio"),
    "4 GHz": (patched(encoded("wav"), 24, b"\xff\xff\xff\xff"), "unsupported_audio"),
    "only the flac signature": (b"fLaC", "corrupt_audio"),
    "flac without frames": (encoded("flac")[:42], "corrupt_audio"),
    "50 million declared mp4 samples": (mp4_with_declared_samples(encoded("m4a"), 50_000_000), "corrupt_audio"),
    "longer than the limit": (encoded("wav", 61.0), "too_long"),
}


@pytest.mark.parametrize("case", BAD)
def test_each_kind_of_bad_audio_has_its_reason(case: str) -> None:
    data, reason = BAD[case]
    assert reason_of(data) == reason


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=2000),
    st.sampled_from([b"", b"RIFF\xff\0\0\0WAVE", b"fLaC", b"OggS\0\2", b"ID3\3\0", b"\0\0\0\x20ftyp"]),
)
def test_random_bytes_raise_only_bad_audio(data: bytes, signature: bytes) -> None:
    _only_bad_audio(signature + data)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "delete", "insert", "cut"]),
        st.floats(0, 1),
        st.sampled_from([64, 512, 1 << 30]),  # of the file's start
        st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x05\0\0\0"])
        | st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(KINDS), CHANGES)
def test_damaged_files_raise_only_bad_audio(kind: str, changes: list[tuple[str, float, int, bytes]]) -> None:
    data = encoded(kind, 0.5)
    for change, where, span, new in changes:
        at = int(where * min(span, len(data)))
        data = {
            "set": patched(data, at, new),
            "delete": data[:at] + data[at + len(new) :],
            "insert": data[:at] + new + data[at:],
            "cut": data[: max(at, 1)],
        }[change]
    _only_bad_audio(data)


def _only_bad_audio(data: bytes) -> None:
    before = reset_peak_kilobytes()
    try:
        samples = decode_all(data, name="x", max_seconds=10)
    except BadAudio:
        pass
    else:
        assert 0 < len(samples) <= 160_000
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() <= 1
    assert peak_kilobytes() - before < 100_000


def growth_megabytes(folder: Path, data: bytes, work: str) -> float:
    """How much the peak of a fresh process grows by `work` on `data`, beyond what decoding a small file takes."""
    (folder / "small").write_bytes(encoded("m4a"))
    (folder / "data").write_bytes(data)
    script = f"""
        import pathlib, sys
        from pipeline.audio.decode import contents, decode_all, stream
        from pipeline.schemas import BadAudio
        from tests.support.memory import peak_kilobytes
        small, data = (pathlib.Path(name).read_bytes() for name in sys.argv[1:])
        decode_all(small, name="x", max_seconds=9)
        before = peak_kilobytes()
        try:
            {work}
        except BadAudio:
            pass
        print((peak_kilobytes() - before) / 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), folder / "small", folder / "data"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=110).stdout)


BOMB_SECONDS = 1200  # of silence: a flac of 100 kB, 77 MB when decoded


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return sndfile(np.zeros((16_000 * BOMB_SECONDS, 1), np.int16), 16_000, "FLAC", "PCM_16")


def test_a_long_stream_takes_no_memory_for_its_length(tmp_path: Path, bomb: bytes) -> None:
    work = f"assert sum(map(len, stream(data, name='x', max_seconds=4000))) == {16_000 * BOMB_SECONDS}"
    assert growth_megabytes(tmp_path, bomb, work) < 20


def test_a_flac_bomb_is_stopped_at_the_limit(tmp_path: Path, bomb: bytes) -> None:
    assert growth_megabytes(tmp_path, bomb, "decode_all(data, name='x', max_seconds=30)") < 20


def test_decoding_takes_little_more_than_its_result(tmp_path: Path, bomb: bytes) -> None:
    result = 4 * 16_000 * BOMB_SECONDS / 2**20
    assert (
        0.9 * result < growth_megabytes(tmp_path, bomb, "decode_all(data, name='x', max_seconds=4000)") < 1.4 * result
    )


@pytest.mark.parametrize("count", [30_000_000, 200_000_000, 0xFFFFFFF0])
def test_declared_samples_take_no_memory(tmp_path: Path, count: int) -> None:
    data = mp4_with_declared_samples(encoded("m4a"), count)
    assert growth_megabytes(tmp_path, data, "decode_all(data, name='x', max_seconds=9)") < 20


def test_a_wav_that_declares_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    form = struct.pack("<HHIIHH", 3, 32, 384_000, 49_152_000, 128, 32)  # float, 32 channels
    header = struct.pack("<4sI4s4sI16s4sI", b"RIFF", 0xFFFFFFFF, b"WAVE", b"fmt ", 16, form, b"data", 0xFFFFFFFF)
    assert growth_megabytes(tmp_path, header + bytes(1_000_000), "decode_all(data, name='x', max_seconds=9)") < 40
