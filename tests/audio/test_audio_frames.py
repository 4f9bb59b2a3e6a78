"""What pipeline.audio.frames promises, on frames that FFmpeg made."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest

from pipeline.audio.decode import decode_all
from pipeline.audio.frames import joined, kind_of, planes_of
from tests.support.audio_files import encoded, tone

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1", 16: "hexadecagonal"}


def frames_of(data: bytes) -> list[av.AudioFrame]:
    with av.open(io.BytesIO(data)) as container:
        return list(container.decode(audio=0))


@pytest.mark.parametrize("kind", ["wav_u8", "flac", "wav_24", "wav_float", "wav_double", "mp3", "alac", "opus"])
def test_joined_frames_are_what_pyav_makes_of_each(kind: str) -> None:
    frames = frames_of(encoded(kind))
    found = kind_of(frames[0])
    arrays = [frame.to_ndarray() for frame in frames]
    if not frames[0].format.is_planar:
        arrays = [array.reshape(-1, found.channels).T for array in arrays]
    samples = joined([planes_of(frame, found) for frame in frames], found)
    assert samples.dtype == arrays[0].dtype
    assert np.array_equal(samples, np.concatenate(arrays, axis=1))


def test_joined_frames_outlive_the_decoder() -> None:
    frames = frames_of(encoded("mp3"))
    found = kind_of(frames[0])
    views = [planes_of(frame, found) for frame in frames]
    before = joined(views, found)
    del frames
    again = frames_of(encoded("opus"))  # whatever the memory of the first ones is used for now
    assert np.array_equal(joined(views, found), before)
    assert again


def surround(container: str, codec: str, channels: int) -> bytes:
    """A second of `tone` in all channels alike, at 48 kHz."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        track = out.add_stream(codec, rate=48_000, layout=LAYOUTS[channels])
        wave = np.repeat(tone(48_000, 1.0), channels, axis=1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(wave, format="flt", layout=LAYOUTS[channels])
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(format=track.codec_context.format, layout=LAYOUTS[channels], rate=48_000)
        for part in resampler.resample(frame):
            out.mux(track.encode(part))
        out.mux(track.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("channels", [6, 8, 16])
@pytest.mark.parametrize(("container", "codec"), [("ipod", "aac"), ("matroska", "pcm_s16le")])
def test_many_channels_are_all_heard_and_break_nothing(container: str, codec: str, channels: int) -> None:
    samples = decode_all(surround(container, codec, channels), name="x", max_seconds=9)
    level = float(np.sqrt(2 * np.mean(samples[4000:-4000].astype(np.float64) ** 2)))
    assert level == pytest.approx(0.3, rel=0.2)  # aac cuts the highs of one of them, and its level


def test_each_of_eight_planes_is_a_channel() -> None:
    data = surround("ogg", "libopus", 8)
    levels = [np.abs(decode_all(data, name="x", max_seconds=9, channel=channel)).max() for channel in range(8)]
    assert np.median(levels) == pytest.approx(0.3, rel=0.1)  # one, for low frequencies, is quieter


def test_64_bit_integers_are_heard() -> None:
    values = (tone(16_000, 1.0)[:, 0].astype(np.float64) * 2**63).astype("<i8")
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 128_000, 8, 64)
    head = struct.pack(
        "<4sI4s4sI16s4sI", b"RIFF", 36 + values.nbytes, b"WAVE", b"fmt ", 16, form, b"data", values.nbytes
    )
    samples = decode_all(head + values.tobytes(), name="x", max_seconds=9)
    assert np.abs(samples - tone(16_000, 1.0)[:, 0]).max() < 1e-6
