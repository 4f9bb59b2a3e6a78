"""jobs.bench decode: the same speech for every reader, and figures that follow from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jobs import bench as job
from pipeline.audio import decode as audio
from pipeline.benchmark import decoding, readers, speech


def test_every_format_holds_the_same_speech(tmp_path: Path) -> None:
    samples = speech.sample_speech(4.0)
    files = decoding.write_files(tmp_path, samples)
    assert list(files) == list(decoding.GOALS)
    for name, path in files.items():
        decoded = audio.decode_all(path.read_bytes(), name=name, max_seconds=60)
        assert abs(len(decoded) - len(samples)) < decoding.CODEC_SECONDS * 16_000
        lag = max(
            range(-1000, 1000), key=lambda at: float(np.dot(np.roll(samples, at), np.resize(decoded, len(samples))))
        )
        shifted = np.roll(samples, lag)
        assert np.corrcoef(shifted, np.resize(decoded, len(samples)))[0, 1] > 0.9, name


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("flac 16 kHz mono", 16_000, 1), ("mp3 44.1 kHz stereo", 44_100, 2), ("opus 48 kHz mono", 48_000, 1)],
)
def test_files_are_what_they_are_called(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    path = decoding.write_files(tmp_path, speech.sample_speech(1.0))[name]
    with path.open("rb") as file, audio.AudioTrack(file, name) as track:
        _, found, planes = next(track.planes())
    assert (found, len(planes)) == (rate, channels)


def test_figures_hold_every_reader_and_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench" / "decode.json"
    assert job.main(["decode", "--decode-minutes", "0.05", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())["decode"]
    rows = {(row["format"], row["reader"]): row for row in figures["rows"]}
    assert rows.keys() == {(name, reader) for name in decoding.GOALS for reader in ("pipeline", "datasets", "librosa")}
    assert "processor seconds" in figures["clock"]
    for name in decoding.GOALS:
        ours = rows[name, "pipeline"]
        assert ours["rtfx"] == pytest.approx(3.0 / ours["processor_seconds"], rel=0.05)
        assert figures[f"decode_rtfx_{name.split()[0]}"] == ours["rtfx"]
        assert ours["goal"] == decoding.GOALS[name]
    for row in rows.values():  # a reader has returned all audio, or says why it has not
        assert abs(row["audio_seconds"] - 3.0) <= decoding.CODEC_SECONDS if row["rtfx"] else row["error"]
    assert "| flac 16 kHz mono | 500 |" in capsys.readouterr().out


def test_a_reader_that_is_not_installed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "PACKAGES", tmp_path)
    figures = decoding.compare(seconds=1.0, repeats=1)
    others = [row for row in figures["rows"] if row["reader"] != "pipeline"]
    assert len(others) == 2 * len(decoding.GOALS)
    assert all(row["rtfx"] is None and "No module named" in row["error"] for row in others)
    assert "not measured" in decoding.table(figures)


def test_a_reader_that_misses_audio_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = speech.sample_speech(2.0)
    monkeypatch.setattr(decoding, "sample_speech", lambda seconds: whole[:16_000])
    with pytest.raises(RuntimeError, match=r"pipeline reads 1\.0"):
        decoding.compare(seconds=2.0, repeats=1)


def test_the_least_of_all_repeats_counts(tmp_path: Path) -> None:
    file = decoding.write_files(tmp_path, speech.sample_speech(1.0))["flac 16 kHz mono"]
    measured = readers.measure("pipeline", 3, [file])
    assert measured["rows"] == [
        {"file": "speech.flac", "audio_seconds": 1.0, "processor_seconds": pytest.approx(0, abs=1)}
    ]


def test_the_archive_is_the_same_every_time_and_holds_each_recording_again(tmp_path: Path) -> None:
    seconds = speech.write_archive(tmp_path / "a", 400.0)
    assert seconds == speech.write_archive(tmp_path / "b", 400.0)
    assert seconds >= 400.0
    first, second = (sorted((tmp_path / name).iterdir()) for name in "ab")
    assert [path.name for path in first] == ["repeat-0000.tar", "repeat-0001.tar"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes() == first[1].read_bytes()


def test_what_we_compare_with_is_no_part_of_the_product() -> None:
    root = Path(__file__).parents[2]
    lines = [(root / name).read_text().splitlines() for name in ("requirements-bench.lock", "requirements.lock")]
    pinned, product = ({line.partition("==")[0] for line in file if "==" in line} for file in lines)
    assert len(pinned) > 2
    assert not pinned & product
