"""Whisper beside faster-whisper: the clips that are compared, and how errors are counted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from jobs import bench
from pipeline.benchmark import beside
from pipeline.benchmark.beside import Clip


def test_clips_are_spread_over_each_language(tmp_path: Path) -> None:
    rows = []
    for n in range(10):
        audio = io.BytesIO()
        soundfile.write(audio, np.full(160 * (n + 1), 0.1, np.float32), 16_000, format="FLAC")
        row = {"id": f"{n}", "audio": audio.getvalue(), "text": f"text {n}", "language": "en" if n < 9 else "zh"}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "speech.parquet")
    clips = beside.read_clips(tmp_path / "speech.parquet", 3)
    assert [(clip.language, clip.text, len(clip.samples)) for clip in clips] == [
        ("en", "text 0", 160),
        ("en", "text 4", 800),
        ("en", "text 8", 1440),
        ("zh", "text 9", 1600),
    ]


def test_errors_are_words_and_of_mandarin_characters() -> None:
    silence = np.zeros(160, np.float32)
    clips = [Clip("en", "one two three", silence), Clip("zh", "你好吗", silence), Clip("en", "four", silence)]
    counted = dict(beside._errors(clips, ["One, two tree!", "你好", "four"]))
    assert counted == {"en": (1, 4), "zh": (1, 3)}
    figures = {"audio_seconds": 30.0, "ours": {"seconds": 10.0, "errors": counted}}
    assert beside.table(figures).splitlines()[-1] == "| ours | 3.00 | 25.0 % of 4 | 33.3 % of 3 | 28.6 % of 7 |"


def test_speech_that_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["whisper", str(tmp_path / "none.parquet")]) == 2
    assert "none.parquet: no such file" in capsys.readouterr().err
