"""jobs.bench pipeline: both sides hear the same segments of the same audio, and the figures follow from that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import bench as job
from pipeline.benchmark import throughput
from pipeline.planning.plan import make_plan
from tests.support.archives import archive, settings

KEYS = {
    "pipeline_to_engine", "pipeline_rtfx", "engine_rtfx", "pipeline_seconds", "engine_seconds", "audio_seconds",
    "recordings", "segments", "units", "texts_equal", "canvases", "threads_per_replica", "max_steps", "cores",
    "cores_busy_before", "clock", "goal", "engine_to_replica_processor", "pipeline_processor_seconds",
    "replica_start_processor_seconds",
}  # fmt: skip


def test_the_halves_of_the_engine_are_the_whole_plan(tmp_path: Path, small_model_dir: Path) -> None:
    config = settings(archive(tmp_path / "in", 5), tmp_path / "out", small_model_dir, "plan.unit_recordings=2")
    whole, samples = throughput.decoded(config, list(make_plan(config.source, config.plan)))
    first, second = (throughput.engine_alone(config, half) for half in (0, 1))
    assert not first.texts.keys() & second.texts.keys()
    assert first.texts.keys() | second.texts.keys() == whole.keys()
    assert round((first.audio_seconds + second.audio_seconds) * 16_000) == samples
    assert {name for name, *_ in whole} == {f"r{number:03d}.wav" for number in range(5)}


def test_an_output_that_is_there_already_is_refused(tmp_path: Path, small_model_dir: Path) -> None:
    (tmp_path / "out").mkdir()
    config = settings(archive(tmp_path / "in", 1), tmp_path / "out", small_model_dir)
    with pytest.raises(ValueError, match="out: exists"):
        throughput.compare(config)


@pytest.mark.timeout(600)
def test_the_job_writes_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pipeline.json"
    few = ["--minutes", "1", "--decode-minutes", "0.05", "source.include=*/fr/*"]
    assert job.main(["pipeline", "--json", str(path), *few]) == 0
    figures = json.loads(path.read_text())
    assert figures.keys() >= KEYS | {"decode"}
    assert figures["model"] == "tiny"
    assert figures["recordings"] % 6 == 0
    assert figures["segments"] >= figures["recordings"] > 0
    seconds = figures["audio_seconds"]
    assert figures["texts_equal"] == 1.0
    assert figures["engine_rtfx"] == pytest.approx(seconds / figures["engine_seconds"], rel=0.02)
    assert figures["pipeline_rtfx"] == pytest.approx(seconds / figures["pipeline_seconds"], rel=0.02)
    assert figures["pipeline_to_engine"] == pytest.approx(figures["pipeline_rtfx"] / figures["engine_rtfx"], rel=0.01)
    replica = figures["pipeline_processor_seconds"]["replica"] - figures["replica_start_processor_seconds"]
    assert figures["engine_to_replica_processor"] == pytest.approx(
        figures["engine_processor_seconds"] / replica, rel=0.01
    )
    assert figures["decode"]["decode_rtfx_flac"] > 0
    shown = capsys.readouterr().out
    assert "| engine alone |" in shown
    assert "| flac 16 kHz mono |" in shown


@pytest.mark.parametrize(
    ("given", "says"),
    [("compute.canvas=3", "compute.canvas: no such key"), ("model.name=/no/such", "model.name: /no/such")],
)
def test_a_wrong_setting_is_a_usage_error(capsys: pytest.CaptureFixture[str], given: str, says: str) -> None:
    assert job.main(["pipeline", given]) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("given", [("--threads", "0"), ("--windows", "-1")])
def test_a_number_that_cannot_be_is_a_usage_error(given: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        job.main(["engine", *given])
    assert "is not a whole number of 1 or more" in capsys.readouterr().err
