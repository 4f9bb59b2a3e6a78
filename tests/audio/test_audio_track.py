"""What pipeline.audio.track promises."""

from __future__ import annotations

import gc
import io
import weakref
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from pipeline.audio.track import AudioTrack, Lost
from pipeline.schemas import BadAudio
from tests.support.audio_files import (
    FFMPEG,
    KINDS,
    LOSSLESS,
    encoded,
    ffmpeg,
    flac_without_length,
    id3,
    patched,
    sndfile,
    tone,
    with_gap,
    with_tracks,
)
from tests.support.memory import peak_kilobytes, reset_peak_kilobytes


def frames_of(data: bytes) -> np.ndarray:
    """All samples [channels, frames] in their own type."""
    with AudioTrack(io.BytesIO(data), "x") as track:
        return np.concatenate([planes for _, _, planes in track.planes()], axis=1)


def lost_of(data: bytes) -> list[Lost]:
    """What is not heard of a file, once all of it is decoded."""
    with AudioTrack(io.BytesIO(data), "x") as track:
        for _ in track.planes():
            pass
        return track.lost


def reason_of(data: bytes) -> str:
    """Why a file cannot be decoded, or not all of it."""
    try:
        return lost_of(data)[0].reason
    except BadAudio as err:
        return err.reason


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_a_decoded_track_is_released_without_the_garbage_collector(kind: str) -> None:
    class File(io.BytesIO):
        """Of a kind that can be referred to weakly."""

    file = File(encoded(kind))
    released = weakref.ref(file)
    gc.disable()
    try:
        with AudioTrack(file, "x") as track:
            for _ in track.planes():
                pass
        del file, track
        assert released() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_decoded_to_its_end(kind: str) -> None:
    with AudioTrack(io.BytesIO(encoded(kind)), "x") as track:
        parts = [(position, rate, planes.shape) for position, rate, planes in track.planes()]
    position, rate, (channels, frames) = parts[-1]
    assert channels in (1, 2)
    least = 1.99 if kind == "wma" else 2.0  # FFmpeg's encoder of wma drops its last frame
    assert least <= (position + frames) / rate < 2.1  # the others add up to three frames of silence
    assert [at for at, _, _ in parts] == np.cumsum([0, *(shape[1] for _, _, shape in parts[:-1])]).tolist()


@pytest.mark.parametrize("kind", [kind for kind in LOSSLESS if kind != "wav_24"])
def test_lossless_kinds_are_bit_exact(kind: str) -> None:
    dtype = {"wav_float": "float32", "wav_double": "float64", "wav_32": "int32", "flac_24": "int32"}.get(kind, "int16")
    expected, _ = soundfile.read(io.BytesIO(encoded(kind)), dtype=dtype, always_2d=True)
    assert np.array_equal(frames_of(encoded(kind)), expected.T)


def test_playlists_open_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.wav").write_bytes(encoded("wav"))
    monkeypatch.chdir(tmp_path)
    playlist = b"ffconcat version 1.0\nfile secret.wav\n"
    with av.open(io.BytesIO(playlist)) as unfenced:  # what FFmpeg does by itself
        assert sum(frame.samples for frame in unfenced.decode(audio=0)) == 32_000
    assert reason_of(playlist) == "not_audio"


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
        "[playlist]\nFile1=http://127.0.0.1/a.mp3\n",
        "plain text that somebody named speech.wav\n" * 40,
    ],
    ids=["hls", "sdp", "dash", "pls", "text"],
)
def test_text_is_not_audio(text: str) -> None:
    assert reason_of(text.encode()) == "not_audio"


def test_video_without_sound_is_not_audio() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        out.mux(stream.encode(av.VideoFrame(32, 32, "yuvj420p")))
        out.mux(stream.encode(None))
    assert reason_of(file.getvalue()) == "not_audio"


def test_broken_text_in_tags_is_no_reason_to_fail() -> None:
    assert frames_of(id3() + encoded("mp3")).shape == frames_of(encoded("mp3")).shape


@pytest.mark.parametrize("kind", ["mp3", "aac", "vorbis", "opus"])
def test_joined_files_are_decoded_whole(kind: str) -> None:
    one = frames_of(encoded(kind)).shape[1]
    tag = id3() if kind in ("mp3", "aac") else b""
    assert frames_of(encoded(kind) + tag + encoded(kind)).shape[1] == pytest.approx(2 * one, abs=2400)


@pytest.mark.parametrize(("kind", "container"), [("m4a", "ipod"), ("webm", "webm"), ("mkv", "matroska")])
def test_gaps_between_time_stamps_become_silence(kind: str, container: str) -> None:
    with AudioTrack(io.BytesIO(with_gap(encoded(kind), container, 1.0, 3.0)), "x") as track:
        parts = [(rate, planes) for _, rate, planes in track.planes()]
    rate, sound = parts[0][0], np.concatenate([planes for _, planes in parts], axis=1)[0]
    quiet = np.abs(sound[: sound.size // rate * rate]).reshape(-1, rate // 10).max(axis=1) < 0.01  # per 0.1 s
    assert frames_of(encoded(kind)).shape[1] + 3 * rate == pytest.approx(sound.size, abs=0.05 * rate)
    assert not quiet[1:10].any()
    assert quiet[11:39].all()
    assert not quiet[41:49].any()


def test_jitter_of_time_stamps_is_no_gap() -> None:
    jitter = with_gap(encoded("webm"), "webm", 1.0, 0.06)
    assert np.array_equal(frames_of(jitter), frames_of(encoded("webm")))


def test_a_time_stamp_in_the_far_future_takes_no_memory() -> None:
    data = with_gap(encoded("webm"), "webm", 1.0, 500_000.0)
    before = reset_peak_kilobytes()
    with AudioTrack(io.BytesIO(data), "x") as track:
        for position, _rate, _planes in track.planes():
            if position > 48_000 * 3600:
                break
    assert peak_kilobytes() - before < 50_000


def test_flac_of_unknown_length_is_decoded_whole() -> None:
    assert np.array_equal(frames_of(flac_without_length(encoded("flac"))), frames_of(encoded("flac")))


@pytest.mark.parametrize("kind", ["flac", "flac_24", "aiff", "au", "mp3", "mp3_plain", "aac", "amr", "flv"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_files_cut_in_the_middle_are_truncated(kind: str, share: float) -> None:
    data = encoded(kind)
    assert reason_of(data[: int(len(data) * share)]) == "truncated_audio"


@pytest.mark.parametrize("kind", ["webm", "mkv"])
def test_matroska_with_less_than_its_declared_duration_is_truncated(kind: str) -> None:
    assert reason_of(encoded(kind)[: int(len(encoded(kind)) * 0.6)]) == "truncated_audio"


@pytest.mark.parametrize("kind", ["flac", "mp3", "mp3_plain", "aac"])
def test_one_missing_byte_is_truncated(kind: str) -> None:
    assert reason_of(encoded(kind)[:-1]) == "truncated_audio"


def test_mp3_may_end_with_tags_and_padding() -> None:
    whole = frames_of(encoded("mp3_plain")).shape
    assert frames_of(encoded("mp3_plain") + b"TAG".ljust(128, b"x")).shape == whole
    assert frames_of(encoded("mp3_plain") + b"\0" * 5000).shape == whole


@pytest.mark.parametrize("kind", ["flac", "flac_24", "m4a", "opus", "vorbis", "aac"])
def test_damage_in_the_middle_is_corrupt(kind: str) -> None:
    data = encoded(kind, 8.0)
    assert reason_of(patched(data, len(data) // 2, b"a" * 60)) == "corrupt_audio"


def test_one_flipped_bit_in_flac_is_found() -> None:
    data = encoded("flac")
    middle = len(data) // 2
    assert reason_of(patched(data, middle, bytes([data[middle] ^ 4]))) == "corrupt_audio"


@pytest.mark.parametrize(("rate", "form"), [(44_100, "FLAC"), (48_000, "WAV"), (16_000, "FLAC"), (11_025, "WAV")])
def test_seeking_gives_the_same_frames(rate: int, form: str) -> None:
    data = sndfile(tone(rate, 20.0), rate, form, "PCM_16")
    whole = frames_of(data)
    with AudioTrack(io.BytesIO(data), "x") as track:
        frame = track.seek(12 * 16_000)
        position, _, planes = next(track.planes())
    assert 11.7 * rate - rate / 16_000 * 441 < frame <= 11.75 * rate
    assert frame * 16_000 % rate == 0  # the resampler's phase is that of the start
    assert frame - rate < position <= frame
    assert np.array_equal(planes, whole[:, position : position + planes.shape[1]])


@pytest.mark.parametrize("kind", ["mp3", "m4a", "opus", "wav_adpcm"])
def test_kinds_that_cannot_seek_exactly_begin_at_the_start(kind: str) -> None:
    with AudioTrack(io.BytesIO(encoded(kind)), "x") as track:
        assert track.seek(16_000) == 0
        assert next(track.planes())[0] == 0


def damaged(kind: str, seconds: float, size: int) -> bytes:
    """An audio file of 12 s, overwritten with noise from about here on."""
    data = encoded(kind, 12.0)
    return patched(data, int(len(data) * seconds / 12), np.random.default_rng(3).bytes(size))


@pytest.mark.parametrize(("kind", "size"), [("mp3", 3000), ("mp3_plain", 3000), ("mp2", 60_000), ("webm", 6000)])
def test_what_is_overwritten_in_the_middle_is_lost_at_its_place_in_time(kind: str, size: int) -> None:
    whole, level = loudness(encoded(kind, 12.0)), loudness(damaged(kind, 6.0, size))
    assert len(level) == pytest.approx(len(whole), abs=1)
    with AudioTrack(io.BytesIO(damaged(kind, 6.0, size)), "x") as track:
        for _ in track.planes():
            pass
        ((start, length, reason, _),) = [span for span in track.lost if span.seconds > 0.1]
    assert reason == "corrupt_audio"
    assert start - 0.2 < 6.0 < start + length
    quiet = np.flatnonzero(level[1:119] < 0.01) + 1
    assert quiet.min() >= int(start * 10) - 1
    assert quiet.max() <= (start + length) * 10 + 1
    assert len(quiet) >= length * 10 - 3


@pytest.mark.parametrize("kind", [*KINDS])
def test_nothing_of_a_whole_file_is_lost(kind: str) -> None:
    with AudioTrack(io.BytesIO(encoded(kind)), "x") as track:
        for _ in track.planes():
            pass
        assert track.lost == []


@pytest.mark.parametrize(
    "between", [id3(), id3(16_000), b"APETAGEX" + b"x" * 3000, b"TAG".ljust(128, b"x"), bytes(5000)]
)
def test_tags_between_frames_are_no_lost_audio(between: bytes) -> None:
    data = encoded("mp3_plain") + between + encoded("mp3_plain")
    with AudioTrack(io.BytesIO(data), "x") as track:
        frames = sum(planes.shape[1] for _, _, planes in track.planes())
        assert sum(span.seconds for span in track.lost) < 0.1  # FFmpeg takes the frame after padding for padding
    assert frames == pytest.approx(2 * frames_of(encoded("mp3_plain")).shape[1], abs=2400)


def test_a_recorder_on_pause_has_lost_nothing() -> None:
    with AudioTrack(io.BytesIO(with_gap(encoded("webm"), "webm", 1.0, 3.0)), "x") as track:
        for _ in track.planes():
            pass
        assert track.lost == []


def loudness(data: bytes, number: int | None = None) -> np.ndarray:
    """The largest sample of each 0.1 s."""
    with AudioTrack(io.BytesIO(data), "x", number) as track:
        parts = [(rate, planes) for _, rate, planes in track.planes()]
    step = parts[0][0] // 10
    sound = np.concatenate([planes for _, planes in parts], axis=1)[0]
    sound = sound / (1.0 if sound.dtype.kind == "f" else float(np.iinfo(sound.dtype).max))
    return np.abs(sound[: len(sound) // step * step]).reshape(-1, step).max(axis=1)


CONTAINERS = [("mp4", "m4a"), ("matroska", "mkv"), ("webm", "webm"), ("mov", "alac")]


@pytest.mark.parametrize(("container", "kind"), CONTAINERS)
def test_a_track_that_begins_late_is_at_its_place_in_time(container: str, kind: str) -> None:
    data = with_tracks(container, [encoded(kind), encoded(kind)], starts=(0.0, 3.0), default=1)
    level = loudness(data)
    assert len(level) == pytest.approx(50, abs=2)
    assert level[:29].max() < 0.01
    assert level[31:49].min() > 0.2
    assert loudness(data, 0)[1:19].min() > 0.2


@pytest.mark.parametrize(("container", "kind"), [("matroska", "mkv"), ("webm", "webm"), ("mp4", "m4a")])
def test_the_only_track_may_begin_late(container: str, kind: str) -> None:
    level = loudness(with_tracks(container, [encoded(kind)], starts=(3.0,)))
    assert level[:29].max() < 0.01
    assert level[31:49].min() > 0.2


@pytest.mark.parametrize("kind", ["opus", "vorbis"])
def test_a_stream_that_was_joined_midway_is_whole(kind: str) -> None:
    level = loudness(with_tracks("ogg", [encoded(kind)], starts=(40.0,)))
    assert len(level) == pytest.approx(20, abs=2)
    assert level[1:19].min() > 0.2


def test_a_stream_that_was_joined_midway_and_cut_is_truncated() -> None:
    whole = with_tracks("ogg", [encoded("opus", 8.0)], starts=(40.0,))
    last = whole.rindex(b"OggS")
    cut = whole[: whole.rindex(b"OggS", 0, last)] + whole[last:]  # without the page before the last one
    assert reason_of(cut) in ("corrupt_audio", "truncated_audio")


@pytest.mark.parametrize(("container", "kind"), CONTAINERS)
def test_the_default_track_is_decoded_and_each_can_be_asked_for(container: str, kind: str) -> None:
    quiet = ffmpeg(tone(48_000, 2.0) / 10, 48_000, *FFMPEG[kind][:2], {}) if kind != "alac" else QUIET_ALAC
    data = with_tracks(container, [quiet, encoded(kind)], default=1)
    with AudioTrack(io.BytesIO(data), "x") as track:
        assert (track.number, track.tracks) == (1, [0, 1])
    assert loudness(data)[1:19].min() > 0.2
    assert loudness(data, 0)[1:19].max() < 0.1
    assert loudness(data, 1)[1:19].min() > 0.2
    with pytest.raises(BadAudio, match="unsupported_audio: x: audio track 2 of 2"):
        AudioTrack(io.BytesIO(data), "x", 2)


QUIET_ALAC = ffmpeg(tone(44_100, 2.0) / 10, 44_100, "ipod", "alac", {})


class FailingFile(io.BytesIO):
    """Whose storage breaks down after a few reads."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > 6:
            raise OSError("storage is gone")
        return super().read(size)


def test_errors_of_the_file_object_pass_through() -> None:
    with pytest.raises(OSError, match="storage is gone"), AudioTrack(FailingFile(encoded("wav_float")), "x") as track:
        for _ in track.planes():
            pass
