"""The chain on a real local Ray with a small model: complete, repeatable, resumable; causes of a failure are named."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.config import ConfigError, RunConfig
from pipeline.flow.bundles import Bundles
from pipeline.flow.suspects import users_error
from pipeline.output.attempts import PREFIX as ATTEMPTS
from pipeline.output.budget import OverBudget
from pipeline.output.commit import committed_units
from pipeline.run import prepare, transcribe
from pipeline.schemas import DEAD_LETTER, TRANSCRIPT, UNIT_LEFT, to_table
from pipeline.storage.base import OutputError, open_storage
from pipeline.storage.errors import StorageError
from tests.support.archives import archive, settings, wav

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = archive(tmp_path_factory.mktemp("archive") / "in", 9)
    (root / "r003b.wav").write_bytes(b"")
    (root / "r007b.wav").write_text("no audio " * 99)
    return root


def table(config: RunConfig, name: str) -> list[dict[str, Any]]:
    return pq.read_table(Path(config.output.uri) / name).to_pylist()


def books(config: RunConfig) -> dict[str, Any]:
    return dict(json.loads((Path(config.output.uri) / "_run/accounting.json").read_text()))


def transcripts(config: RunConfig) -> list[tuple[Any, ...]]:
    columns = ("recording_id", "segment_index", "start_ms", "end_ms", "text", "confidence", "steps")
    return [tuple(row[name] for name in columns) for row in table(config, "transcripts")]


@pytest.fixture(scope="module")
def done(source: Path, small_model_dir: Path, local_ray: None) -> RunConfig:
    """A finished run. One recording was deleted after the plan was made."""
    config = settings(source, source.parent / "out", small_model_dir)
    wav(source / "r009b.wav", 2.0, 9)
    prepare(config)
    (source / "r009b.wav").unlink()
    transcribe(config)
    return config


def test_every_recording_is_there_once_and_the_books_close(done: RunConfig) -> None:
    rows, letters = table(done, "transcripts"), table(done, "dead_letters")
    assert sorted({row["recording_id"] for row in rows}) == [f"r{number:03d}.wav" for number in range(9)]
    assert {row["recording_id"]: row["reason"] for row in letters} == {
        "r003b.wav": "empty_file",
        "r007b.wav": "not_audio",
        "r009b.wav": "missing_file",
    }
    assert len({(row["recording_id"], row["segment_index"]) for row in rows}) == len(rows)
    report = books(done)
    assert report["closed"]
    assert report["samples_in"] == sum(round((2.5 + number / 100) * 16_000) for number in range(9))


def test_published_tables_have_the_schema(done: RunConfig) -> None:
    assert pq.read_schema(Path(done.output.uri) / "transcripts/part-00000.parquet").equals(TRANSCRIPT)
    assert pq.read_schema(Path(done.output.uri) / "dead_letters/part-00000.parquet").equals(DEAD_LETTER)
    assert all(row["text"] is not None for row in table(done, "transcripts"))


def test_the_text_does_not_depend_on_units_canvases_or_replicas(
    done: RunConfig, source: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.flow.bundles.SHARES", 1)  # several units in one bundle, as in a large archive
    other = settings(
        source,
        source.parent / "other",
        small_model_dir,
        "plan.unit_recordings=2",
        "compute.canvases=3",
        "compute.units_in_flight=1",
        "compute.replicas_min=2",
        "compute.replicas_max=2",
        "compute.decode_actors=2",
    )
    transcribe(other)
    assert [row[:5] + row[6:] for row in transcripts(other)] == [row[:5] + row[6:] for row in transcripts(done)]
    for one, two in zip(transcripts(other), transcripts(done), strict=True):
        assert one[5] == pytest.approx(two[5], abs=1e-4)


def copy_of(done: RunConfig, folder: Path) -> RunConfig:
    """The same run with a copy of its output."""
    shutil.copytree(done.output.uri, folder)
    return done.model_copy(update={"output": done.output.model_copy(update={"uri": str(folder)})})


def test_a_resume_does_what_is_missing_and_nothing_else(done: RunConfig, tmp_path: Path) -> None:
    config = copy_of(done, tmp_path / "resumed")
    whole, storage = transcripts(config), open_storage(config.output.uri)
    commits = sorted(storage.list("commits/"))
    for key in commits[:2]:
        storage.delete(key)
    untouched = {key: storage.get(key) for key in commits[2:]}
    summary = transcribe(config)
    assert summary["pipeline_units"] == 2
    assert transcripts(config) == whole
    assert {key: storage.get(key) for key in commits[2:]} == untouched
    assert len(committed_units(storage)) == len(commits)
    assert books(config)["closed"]


@pytest.fixture
def returned(source: Path) -> Iterator[str]:
    """The missing file exists again, for one test."""
    wav(source / "r009b.wav", 2.0, 9)
    yield "r009b.wav"
    (source / "r009b.wav").unlink()


def test_dead_letters_are_retried(done: RunConfig, returned: str, tmp_path: Path) -> None:
    config = copy_of(done, tmp_path / "retried")
    first = transcribe(config)
    assert first["dead_letters"] == {"empty_file": 1, "missing_file": 1, "not_audio": 1}
    summary = transcribe(config.model_copy(update={"retry": "dead_letters"}))
    assert (summary["dead_letters"], summary["recordings_transcribed"]) == ({"empty_file": 1, "not_audio": 1}, 10)
    letters = {row["recording_id"] for row in table(config, "dead_letters")}
    assert letters == {"r003b.wav", "r007b.wav"}
    names = [*(f"r{number:03d}.wav" for number in range(9)), returned]
    assert sorted({row["recording_id"] for row in table(config, "transcripts")}) == names
    assert books(config)["closed"]


@pytest.mark.parametrize(
    ("override", "code", "line"),
    [
        (
            "budget.stop_after=3",
            3,
            r"^source\.uri: 3 recordings in a row could not be read, .*: missing_file: ",
        ),
        ("budget.max_dead_fraction=0.1", 1, r"% of the recordings are dead letters, .* allows 10\.0%; stopped before"),
    ],
)
def test_too_many_failures_stop_a_run_and_the_same_command_goes_on(
    override: str,
    code: int,
    line: str,
    hold: Path,
    tmp_path: Path,
    small_model_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = archive(tmp_path / "in", 24)
    words = (source, tmp_path / "out", small_model_dir, "plan.unit_recordings=1")
    storage = prepare(settings(*words))
    for number in range(2, 22):
        (source / f"r{number:03d}.wav").unlink()
    with pytest.raises(OverBudget, match=line) as caught:
        transcribe(settings(*words, override))
    assert caught.value.code == code
    assert capsys.readouterr().out == ""
    before = len(committed_units(storage))
    assert 3 <= caught.value.summary["units_committed"] <= before < 24
    hold.touch()
    summary = transcribe(settings(*words, "budget.stop_after=0"))
    assert (summary["recordings_transcribed"], summary["dead_letters"]) == (4, {"missing_file": 20})
    assert books(settings(*words))["closed"]


def test_a_model_that_cannot_be_loaded_ends_the_run_in_one_line(tmp_path: Path, small_model_dir: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(small_model_dir, broken)
    path = broken / "backbone" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    wav(tmp_path / "in" / "a.wav", 1)
    with pytest.raises(ConfigError, match=f"^model.name: {path}: ") as caught:
        transcribe(settings(tmp_path / "in", tmp_path / "out", broken))
    assert "\n" not in str(caught.value)


def test_a_replica_has_several_units_in_flight(source: Path, small_model_dir: Path, tmp_path: Path) -> None:
    """Each unit in flight has a marker of the model stage. With one canvas slot a unit takes long enough to count.

    Markers that are there at two looks, one after the other, were there at the same time.
    """
    words = ("plan.unit_recordings=1", "compute.canvases=1", "compute.units_in_flight=3")
    config = settings(source, tmp_path / "out", small_model_dir, *words, "denoise.max_steps=48")
    most, before = 0, set[Path]()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(transcribe, config)
        while not run.done():
            now = set((tmp_path / "out" / ATTEMPTS).glob("*/model-*"))
            most, before = max(most, len(now & before)), now
            time.sleep(0.005)
        run.result()
    assert 2 <= most <= 3


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("pipeline.config.ConfigError: model.name: a", ConfigError, "model.name: a"),
        ("pipeline.storage.base.OutputError: out: b", OutputError, "out: b"),
        ("pipeline.storage.errors.StorageError: s3://b/x: slow down; ...", StorageError, "s3://b/x: slow down; ..."),
        ("OSError: [Errno 28] No space left on device: '/out/data/x'", StorageError, "/out/data/x: No space left"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'x'", None, ""),
        ("ValueError: pipeline.config.ConfigError: no", None, ""),
    ],
)
def test_the_error_of_an_actor_of_ray_data_is_in_its_traceback(line: str, kind: type | None, message: str) -> None:
    error = users_error(RayError(f"Traceback\n  File x\n  raise ConfigError\n{line}\n"))
    assert type(error) is (kind or type(None))
    assert message in str(error)


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ConfigError("model.name: a"), ConfigError, "model.name: a"),
        (OutputError("out: b"), OutputError, "out: b"),
        (StorageError("s3://b/x: slow down; ..."), StorageError, "s3://b/x: slow down; ..."),
        (StorageError("s3://b/x: slow down; ...\nFailed to apply UDF"), StorageError, "s3://b/x: slow down; ..."),
        (ConfigError("model.name: a\nFailed to apply UDF"), ConfigError, "model.name: a"),
        (OSError("[Errno 28] No space left: '/out/x'\nFailed to apply UDF"), StorageError, "/out/x: No space left"),
        (OSError(28, "No space left on device", "/out/data/x"), StorageError, "/out/data/x: No space left on device"),
        (OSError(107, "Transport endpoint is not connected", "/out/x"), StorageError, "/out/x: Transport endpoint"),
        (FileNotFoundError(2, "No such file", "x"), None, ""),
        (ValueError("pipeline.config.ConfigError: no"), None, ""),
    ],
)
def test_the_error_of_an_actor_that_we_started_is_its_exception(
    raised: Exception, kind: type | None, message: str
) -> None:
    def fails() -> None:
        raise raised

    with pytest.raises(RayTaskError) as caught:
        ray.get(ray.remote(num_cpus=0, max_retries=0)(fails).remote())
    error = users_error(caught.value)
    assert type(error) is (kind or type(None))
    assert message in str(error)
    assert "\n" not in str(error)


def test_a_task_that_ray_warns_of_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.data._internal.planner.plan_read_op.TASK_SIZE_WARN_THRESHOLD_BYTES", 1)
    monkeypatch.setattr("ray.util.debug._logged", set())
    place = {"plan": "plan", "row_group": 0, "first_row": 0, "rows": 1}
    three = [{"unit_id": f"{number:016x}", "place": place} for number in range(3)]
    with pytest.warns(UserWarning, match="read function named '_blocks'"):
        found = ray.data.read_datasource(Bundles(to_table(three, UNIT_LEFT), [1.0] * 3, workers=2)).take_all()
    assert len(found) == 3
