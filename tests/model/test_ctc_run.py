"""A CTC checkpoint in the probe, in whole jobs and in an evaluation: the same tables as of every engine."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from jobs import evaluate
from jobs import transcribe as job
from pipeline import schemas
from pipeline.config import ConfigError, RunConfig
from pipeline.config_file import load
from pipeline.doctor import model_check
from pipeline.forecast.probe import measure_sample
from pipeline.model import ctc_checkpoint
from pipeline.model.files.layout import describe
from pipeline.model.stage import Replica
from pipeline.schemas import About, RecordingRef, Segment
from tests.support.archives import archive, arguments, wav
from tests.support.small_ctc import save_ctc

RECORDINGS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ctc(tmp_path_factory.mktemp("ctc") / "ctc-small", "wav2vec2")


@pytest.fixture(scope="module")
def words(folder: Path) -> list[str]:
    """The settings of a run, with an archive: good recordings, one very short and one that is no audio."""
    source = archive(folder.parent / "in", RECORDINGS)
    wav(source / "short.wav", 0.005)
    (source / "bad.wav").write_text("no audio " * 99)
    with (source / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text"], *((f"r00{n}.wav", "x le e j") for n in range(RECORDINGS))])
    return arguments(source, folder.parent / "out", folder)


@pytest.fixture(scope="module")
def done(words: list[str], local_ray: None) -> Path:
    assert job.main(words) == 0
    return Path(words[3].partition("=")[2])


@pytest.mark.timeout(600)
def test_a_job_writes_words_with_times_in_order_inside_their_segment(done: Path, folder: Path) -> None:
    assert pq.read_schema(done / "transcripts/part-00000.parquet").equals(schemas.TRANSCRIPT)
    rows = pq.read_table(done / "transcripts").to_pylist()
    assert {row["recording_id"] for row in rows} == {*(f"r00{n}.wav" for n in range(RECORDINGS)), "short.wav"}
    assert sum(len(row["words"]) for row in rows) > 20
    model = ctc_checkpoint.load(str(folder))
    for row in rows:
        times = [time for word in row["words"] for time in (word["start_ms"], word["end_ms"])]
        assert times == sorted(times)
        assert all(row["start_ms"] <= time <= row["end_ms"] for time in times)
        assert 0 < row["confidence"] <= 1
        assert row["language"] == "en"  # the setting's: the engine cannot know
        assert row["signals"]["ctc_score"] < 0 or not row["words"]
        assert {row[name] for name in ("steps", "canvas_length", "canvas_fill", "overflow")} == {None}
        assert {row["signals"][name] for name in ("revisions", "temperature", "no_speech_probability")} == {None}
        pcm = (done.parent / "in" / row["recording_id"]).read_bytes()[44:]
        (alone,) = model.recognise([Segment("", None, pcm)])
        assert alone is not None
        assert row["text"] == alone.text
    letters = pq.read_table(done / "dead_letters").to_pylist()
    assert [(row["recording_id"], row["reason"]) for row in letters] == [("bad.wav", "not_audio")]
    assert json.loads((done / "_run/accounting.json").read_text())["closed"]


@pytest.mark.timeout(600)
def test_a_job_goes_on_where_it_was_stopped(done: Path, words: list[str], tmp_path: Path) -> None:
    out = Path(shutil.copytree(done, tmp_path / "out"))
    first, *others = sorted((out / "commits").rglob("*.json"))
    assert others
    first.unlink()
    before = [commit.read_bytes() for commit in others]
    assert job.main([*words, f"output.uri={out}"]) == 0
    assert [commit.read_bytes() for commit in others] == before
    assert first.exists()
    one, other = (pq.read_table(root / "transcripts").to_pylist() for root in (done, out))
    for row, again in zip(one, other, strict=True):
        assert (row["recording_id"], row["text"]) == (again["recording_id"], again["text"])
        assert [(word["text"], word["start_ms"]) for word in row["words"]] == [
            (word["text"], word["start_ms"]) for word in again["words"]
        ]
        assert row["confidence"] == pytest.approx(again["confidence"], abs=1e-5)  # its batch was another one


@pytest.mark.timeout(600)
def test_an_evaluation_scores_it(done: Path, tmp_path: Path) -> None:
    assert evaluate.main([f"sets.small.output={done}", f"output.uri={tmp_path}", "gate.min_coverage=0"]) == 0
    rows = (
        pyarrow.dataset.dataset(tmp_path / "evaluations", format="parquet", partitioning="hive").to_table().to_pylist()
    )
    scored = {row["recording_id"]: row for row in rows if row["reference"]}
    assert len(scored) == RECORDINGS
    for row in scored.values():
        assert row["word_hits"] + row["word_substitutions"] + row["word_deletions"] == 4
        assert row["model"].startswith("ctc-small@")
        assert row["steps"] is None


def test_the_probe_measures_it(words: list[str], done: Path) -> None:
    config = load(RunConfig, None, [*words, "plan.probe_seconds=5"])
    paths = [done.parent / f"in/r00{n}.wav" for n in range(3)]
    refs = [RecordingRef(path.name, "files", str(path), size=path.stat().st_size) for path in paths]
    measured, notes = measure_sample(config, refs)
    assert notes == []
    assert all(one.replica_seconds and one.replica_seconds > 0 for one in measured)


def test_weights_in_fp8_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"model\.weights: fp8 is for diffusion models; .* runs on the engine ctc"):
        Replica(load(RunConfig, None, [*words, "model.weights=fp8"]), About(30, (), "", ""))


def test_the_doctor_knows_its_files_and_does_not_guess_its_memory(words: list[str], folder: Path) -> None:
    config = load(RunConfig, None, words)
    (row,) = model_check.files(config)
    assert row.state == "ok"
    name = f"ctc-small@{describe(str(folder)).weights_hash}"
    assert row.finding.startswith(f"{name}: engine ctc, windows of 30 s, languages en, ")
    (row,) = model_check.present(config)
    assert row.finding.startswith("5 files, ")
    assert not [*model_check.adapter(config), *model_check.memory(config, [])]
