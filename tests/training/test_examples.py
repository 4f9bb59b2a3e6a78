"""Examples from a source: each is one window with a text; all others are counted; decoding happens once."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.audio import stage as decode
from pipeline.config import ConfigError, SegmentConfig, SourceConfig, StorageConfig
from pipeline.in_process import transcribe_here
from pipeline.model.files import layout
from pipeline.model.files.layout import AsrConfig
from pipeline.model.new_model import SizeSection, asr_config
from pipeline.storage.base import OutputError
from pipeline.training import examples
from pipeline.training.examples import Examples
from tests.support.archives import settings

MODEL: AsrConfig = asr_config(SizeSection(window_seconds=1.0), 2048)
FIXED = SegmentConfig(vad=False)


def wav(path: Path, seconds: float, seed: int = 0) -> np.ndarray:
    samples = (np.random.default_rng(seed).normal(size=round(seconds * 16_000)) * 2000).astype(np.int16)
    soundfile.write(path, samples, 16_000)
    return samples


def prepare(
    root: Path, *, uri: str = "audio", segment: SegmentConfig = FIXED, model: AsrConfig = MODEL, **source: str | None
) -> Examples:
    config = SourceConfig.model_validate({"uri": str(root / uri), "language": "de"} | source)
    return examples.prepare(root / "examples", config, model=model, segment=segment, storage=StorageConfig())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    audio = tmp_path / "audio"
    audio.mkdir()
    for number, seconds in enumerate((0.9, 0.5, 2.5, 0.8)):
        wav(audio / f"{number}.wav", seconds, number)
    for number, text in ((0, "null"), (1, "eins"), (2, "viel zu lang")):
        (audio / f"{number}.txt").write_text(text)
    (audio / "4.wav").write_bytes(b"")
    wav(audio / "5.wav", 61.0)
    (audio / "5.txt").write_text("nicht zu Ende gehört")
    return tmp_path


def test_a_recording_of_one_window_with_a_text_is_an_example(folder: Path) -> None:
    made = prepare(folder)
    assert (made.texts, made.languages) == (["null", "eins"], ["de", "de"])
    assert made.keys == ["0.wav#0#0", "1.wav#0#0"]
    assert made.pcm(0) == soundfile.read(folder / "audio" / "0.wav", dtype="int16")[0].tobytes()
    assert len(made.pcm(1)) == 2 * 8000


def test_what_is_left_out_is_counted_by_reason(folder: Path) -> None:
    assert prepare(folder).left_out == {"several_windows": 1, "no_reference": 1, "empty_file": 1, "too_long": 1}


def test_silence_is_no_example(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", np.zeros(16_000, np.float32), 16_000)
    (tmp_path / "audio" / "a.txt").write_text("still")
    with pytest.raises(ConfigError, match=r"^source.uri: .*audio: no recording can be trained on \(no_speech 1\)$"):
        prepare(tmp_path, segment=SegmentConfig())


def test_the_same_source_is_decoded_once(folder: Path) -> None:
    first = prepare(folder)
    with mock.patch.object(decode.Decoder, "pieces", side_effect=AssertionError("decoded again")):
        again = prepare(folder)
        assert (again.texts, again.left_out) == (first.texts, first.left_out)
        with pytest.raises(AssertionError, match="decoded again"):
            prepare(folder, segment=SegmentConfig(vad=False, max_seconds=1.0, pad_ms=100))


def test_a_kill_while_decoding_leaves_nothing_that_is_taken_for_examples(folder: Path) -> None:
    with mock.patch.object(decode.Decoder, "pieces", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        prepare(folder)
    assert prepare(folder).texts == ["null", "eins"]


def test_damaged_examples_are_one_line_that_says_what_to_do(folder: Path) -> None:
    prepare(folder)
    (path,) = (folder / "examples").glob("*.arrow")
    whole = path.read_bytes()
    for left in (b"", whole[: len(whole) // 2]):
        path.write_bytes(left)
        with pytest.raises(OutputError, match=r"\.arrow: damaged \(.*\); delete it, and its audio is decoded again$"):
            prepare(folder)
    path.unlink()
    assert prepare(folder).texts == ["null", "eins"]


def test_pseudo_labels_in_a_manifest_or_a_parquet_file_are_a_source(folder: Path) -> None:
    """Each row points to audio and has a text, by a machine or by people."""
    lines = [{"audio_filepath": str(folder / "audio" / f"{n}.wav"), "text": f"gehört {n}"} for n in (1, 3)]
    (folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert prepare(folder, uri="labels.jsonl").texts == ["gehört 1", "gehört 3"]
    rows = [{"audio": (folder / "audio" / f"{n}.wav").read_bytes(), "text": f"gehört {n}"} for n in (1, 3)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "labels.parquet")
    assert prepare(folder, uri="labels.parquet").texts == ["gehört 1", "gehört 3"]


def test_the_transcripts_of_a_run_become_a_source_as_the_documentation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every label has its own audio; in a telephone call, that of its channel."""
    page = (Path(__file__).parents[2] / "docs/adapter.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    with tarfile.open(layout.ASSETS / "evaluation/self.tar") as archive:
        archive.extractall(
            tmp_path / "audio", [m for m in archive if m.name.endswith(("00.opus", "01.opus"))], filter="data"
        )
    paths = [tmp_path / "audio" / name for name in ("en/000.opus", "zh/001.opus")]
    sides = [soundfile.read(path) for path in paths]
    call = np.zeros((max(len(samples) for samples, _ in sides), 2))
    for channel, (samples, _) in enumerate(sides):
        call[: len(samples), channel] = samples
    soundfile.write(tmp_path / "audio/call.wav", call, sides[0][1])
    for path in paths:
        path.unlink()
    run = ("denoise.max_steps=16", "source.channels=split")
    transcribe_here(settings(tmp_path / "audio", tmp_path / "out/mine", layout.ASSETS / "tiny", *run))
    monkeypatch.chdir(tmp_path)
    exec(code)
    labelled = [row for row in pq.read_table("out/mine/transcripts").to_pylist() if row["confidence"] >= 0.5]
    assert 6 <= len(labelled) <= 12
    calls = [row for row in labelled if row["source_uri"].endswith("call.wav")]
    assert sorted(row["channel"] for row in calls) == [0, 1]
    tiny = layout.read_config(layout.ASSETS / "tiny")
    made = prepare(tmp_path, uri="labels.jsonl", model=tiny, language="column:lang")
    assert sorted(made.texts) == sorted(row["text"] for row in labelled)
    assert made.left_out == {}
    lengths = sorted(len(made.pcm(i)) // 32 for i in range(len(made.texts)))  # in ms
    assert lengths == sorted(row["end_ms"] - row["start_ms"] for row in labelled)
    for row in calls:
        audio = [np.frombuffer(made.pcm(i), np.int16) for i, text in enumerate(made.texts) if text == row["text"]]
        spoken = call[:, row["channel"]][:: sides[0][1] // 16_000][row["start_ms"] * 16 : row["end_ms"] * 16]
        assert max(np.corrcoef(spoken, one)[0, 1] for one in audio if len(one) == len(spoken)) > 0.9
