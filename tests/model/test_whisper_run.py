"""A Whisper checkpoint in a replica, in the probe and in a whole run: the same tables and the same accounting."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import schemas
from pipeline.config import ConfigError, RunConfig
from pipeline.config_file import load
from pipeline.forecast.probe import measure_sample
from pipeline.model.batches import BatchEngine
from pipeline.model.files.layout import describe
from pipeline.model.stage import Replica
from pipeline.model.whisper import recogniser as whisper
from pipeline.planning.fingerprint import check_fingerprint
from pipeline.planning.plan import read_fingerprint
from pipeline.run import prepare, transcribe
from pipeline.schemas import PIECE_DECODED, RecordingRef, to_table
from pipeline.storage.base import open_storage
from tests.model.test_model_stage import ABOUT, unit_row, units
from tests.model.test_model_stage import config as settings_for
from tests.support.archives import archive, arguments, wav
from tests.support.small_model import noise_segment
from tests.support.small_whisper import CODES, edit, save_whisper

RECORDINGS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "whisper-small")


def test_weights_in_fp8_are_refused(folder: Path) -> None:
    config = settings_for(folder)
    config = config.model_copy(update={"model": config.model.model_copy(update={"weights": "fp8"})})
    with pytest.raises(ConfigError, match=r"model\.weights: fp8 is for diffusion models"):
        Replica(config, ABOUT)


def test_the_replica_answers_in_the_schema_of_every_model(folder: Path) -> None:
    replica = Replica(settings_for(folder, dtype="float32"), ABOUT)
    assert isinstance(replica.engine, BatchEngine)
    got = asyncio.run(replica(units({"a": [1, 2, 3, 4], "b": [], "c": [5]})))
    assert got.schema == schemas.PIECE_RECOGNISED
    alone = whisper.load(str(folder))
    answers = [[row["text"] for row in of_unit] for of_unit in got["results"].to_pylist()]
    wanted = {n: alone.recognise([noise_segment(n)])[0] for n in range(1, 6)}
    assert answers == [[wanted[n].text for n in of_unit if wanted[n]] for of_unit in ([1, 2, 3, 4], [], [5])]  # type: ignore[union-attr]
    row = got["results"].to_pylist()[0][0]
    assert row["signals"]["revisions"] is None
    assert row["signals"]["token_probability_min"] > 0
    replica.engine.close()


def test_the_probe_hears_with_it(folder: Path, tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 2.0)
    ref = RecordingRef("a", "files", str(tmp_path / "a.wav"), size=(tmp_path / "a.wav").stat().st_size)
    (probed,), notes = measure_sample(load(RunConfig, None, arguments(tmp_path, tmp_path / "out", folder)), [ref])
    assert probed.audio_seconds == 2.0
    assert probed.replica_seconds
    assert notes == []


def test_a_checkpoint_that_cannot_be_loaded_fails_at_once(tmp_path: Path) -> None:
    broken = save_whisper(tmp_path / "broken")
    edit(broken / "config.json", architectures=["WhisperModel"])
    with pytest.raises(ConfigError, match=r'architecture \["WhisperModel"\]'):
        Replica(settings_for(broken), ABOUT)


def test_a_recording_has_one_language_that_of_its_first_segment(folder: Path) -> None:
    """Also where its first segment was in an earlier piece. A language that somebody says is not touched."""
    replica = Replica(settings_for(folder, dtype="float32"), ABOUT)
    alone = whisper.load(str(folder))
    unknown = [replace(noise_segment(n), language=None) for n in range(7)]
    detected = [result.language for result in alone.recognise(unknown) if result]
    opening = next(n for n in range(7) if detected[n] != detected[3])
    row = unit_row("a", [3, 4, 5, 6])
    for segment, recording, language in zip(row["segments"], (0, 0, 1, 2), (None, None, None, "de"), strict=True):
        segment |= {"recording_index": recording, "language": language}
    begun = row | {"opening": bytes(unknown[opening].pcm)}
    wanted = [(detected[3], detected[3]), (detected[opening], detected[opening])]
    for given, (one, other) in zip((row, begun), wanted, strict=True):
        got = asyncio.run(replica(to_table([given], PIECE_DECODED)))["results"].to_pylist()[0]
        assert [result["language"] for result in got] == [one, other, detected[5], None]
        spoken = alone.recognise([replace(unknown[4], language=other)])[0]
        assert spoken is not None
        assert got[1]["text"] == spoken.text
        assert got[0]["signals"]["language_probability"] == got[1]["signals"]["language_probability"] > 0
        assert got[3]["signals"]["language_probability"] is None
    replica.engine.close()


@pytest.fixture(scope="module")
def done(folder: Path, local_ray: None) -> RunConfig:
    root = folder.parent
    archive(root / "in", RECORDINGS)
    (root / "in/bad.wav").write_text("no audio " * 99)
    words = arguments(root / "in", root / "out", folder)
    config = load(RunConfig, None, [*words, "source.language=null", "compute.canvases=3"])
    transcribe(config)
    return config


@pytest.mark.timeout(600)
def test_a_whole_run_ends_in_the_same_tables_and_its_books_close(done: RunConfig, folder: Path) -> None:
    out = Path(done.output.uri)
    assert pq.read_schema(out / "transcripts/part-00000.parquet").equals(schemas.TRANSCRIPT)
    rows = pq.read_table(out / "transcripts").to_pylist()
    assert {row["recording_id"] for row in rows} == {f"r00{n}.wav" for n in range(RECORDINGS)}
    assert {row["model"] for row in rows} == {f"whisper-small@{describe(str(folder)).weights_hash}"}
    for row in rows:
        assert row["text"] is not None
        assert row["language"] in CODES
        assert row["canvas_length"] == 16
        assert 1 <= row["steps"] <= 16
        assert 0 < row["confidence"] <= 1
    letters = pq.read_table(out / "dead_letters").to_pylist()
    assert [(row["recording_id"], row["reason"]) for row in letters] == [("bad.wav", "not_audio")]
    assert json.loads((out / "_run/accounting.json").read_text())["closed"]


@pytest.mark.timeout(600)
def test_a_run_with_other_weights_is_another_run(done: RunConfig, folder: Path, tmp_path: Path) -> None:
    other = save_whisper(tmp_path / "whisper-small", seed=7)
    prepare(done)  # the same again is accepted
    changed = done.model_copy(update={"model": done.model.model_copy(update={"name": str(other)})})
    with pytest.raises(ConfigError, match=r"model\.weights_hash was"):
        prepare(changed)
    stored = read_fingerprint(open_storage(done.output.uri))
    assert stored["denoise.seed"] == 0  # it is kept, though it decides nothing here
    check_fingerprint(done.output.uri, stored, stored)
