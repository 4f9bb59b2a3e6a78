"""jobs.plan and jobs.transcribe --dry-run: the table, the forecast, and an output that a dry run leaves as it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from jobs import plan as job
from jobs import transcribe as transcribe_job
from pipeline.run import prepare
from tests.support.archives import archive, arguments, settings
from tests.support.outputs import commit, left

ROOT = Path(__file__).parents[2]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("plan") / "in", 6)


def dry(words: list[str]) -> int:
    return transcribe_job.main([*words, "--dry-run"])


def test_a_dry_run_shows_plan_and_forecast_and_touches_nothing(
    source: Path, small_model_dir: Path, tmp_path: Path
) -> None:
    """As a process: exit code 0, no Ray, no output."""
    command = [sys.executable, "-X", "importtime", "-m", "jobs.transcribe", "--dry-run"]
    words = arguments(source, tmp_path / "out", small_model_dir)
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| +jobs\.plan$", done.stderr, re.MULTILINE)
    assert not re.search(r"\| +ray$", done.stderr, re.MULTILINE)
    lines = done.stdout.splitlines()
    assert lines[1].split()[:3] == ["plan", "4", "6"]
    assert lines[2] == "0 units are committed"
    shown = {line[:28].strip(): line[28:].split() for line in lines}
    assert shown["left: 4 units"] == ["forecast", "90%", "interval"]
    assert shown["audio hours"] == ["0.00421", "0.00421", "to", "0.00421"]
    for name in ("decoding, core hours", "replica hours", "wall time"):
        assert len(shown[name]) == 4
    assert "from 6 of 6 recordings, measured on this machine" in done.stdout
    assert lines[-1] == str(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_is_half_done_is_forecast_to_its_end_and_left_as_it_is(
    source: Path, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(source, tmp_path / "out", small_model_dir)
    storage = prepare(settings(source, tmp_path / "out", small_model_dir))
    commit(storage, left(storage)[0], "mark")
    before = contents(tmp_path / "out")
    assert dry(words) == 0
    shown = capsys.readouterr().out
    assert "1 units are committed" in shown
    assert "left: 3 units" in shown
    assert "from 4 of 4 recordings" in shown
    assert contents(tmp_path / "out") == before


def test_a_dry_run_with_a_mistake_fails_as_the_run_would(
    source: Path, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(source, tmp_path / "out", small_model_dir)
    prepare(settings(source, tmp_path / "out", small_model_dir))
    (tmp_path / "file").write_text("in the way")
    for wrong, says in {
        "source.uri=/not/there": "source.uri",
        "denoise.seed=1": "denoise.seed was 0, now 1",
        f"output.uri={tmp_path / 'file'}": "output.uri",
    }.items():
        assert dry([*words, wrong]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert says in lines[-1]
        assert "Traceback" not in lines[-1]


def test_a_retry_is_planned_aside(
    source: Path, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(source, tmp_path / "out", small_model_dir)
    storage = prepare(settings(source, tmp_path / "out", small_model_dir))
    for unit in left(storage):
        commit(storage, unit, "mark", dead=["r001.wav"])
    before = contents(tmp_path / "out")
    assert dry([*words, "retry=dead_letters"]) == 0
    table = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:3]]
    assert table == [["plan", "4", "6"], ["round-1", "1", "1"]]
    assert contents(tmp_path / "out") == before


def test_an_update_is_planned_aside_and_without_it_the_changes_are_shown(
    source: Path, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown = archive(tmp_path / "in", 6)
    words = arguments(grown, tmp_path / "out", small_model_dir)
    storage = prepare(settings(grown, tmp_path / "out", small_model_dir))
    for unit in left(storage):
        commit(storage, unit, "mark")
    archive(tmp_path / "more", 7)
    (tmp_path / "more/r006.wav").rename(grown / "r006.wav")
    before = contents(tmp_path / "out")
    assert dry([*words, "plan.strict=true"]) == 1
    assert "source: 1 new, 0 changed, 0 gone: plan.update=true takes them up" in capsys.readouterr().out
    assert dry([*words, "plan.update=true", "plan.strict=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["plan", "4", "6"], ["round-1", "1", "1"]]
    assert "source: 1 new, 0 changed, 0 gone: planned as a further round" in lines
    assert contents(tmp_path / "out") == before


def test_a_round_of_retries_that_is_half_done_is_shown_as_it_is(
    source: Path, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(source, tmp_path / "out", small_model_dir, "plan.unit_recordings=1")
    storage = prepare(config)
    for unit in left(storage):
        commit(storage, unit, "mark", dead=["r001.wav", "r003.wav"])
    prepare(config.model_copy(update={"retry": "dead_letters"}))
    commit(storage, left(storage)[0], "mark")
    before = contents(tmp_path / "out")
    words = [*arguments(source, tmp_path / "out", small_model_dir), "plan.unit_recordings=1"]
    assert dry([*words, "retry=dead_letters"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["plan", "6", "6"], ["round-1", "2", "2"]]
    assert lines[3] == "7 units are committed"
    assert "left: 1 units" in "\n".join(lines)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("uri", ["{file}", "{file}/below", "ftp://bucket/out"])
def test_an_output_that_cannot_be_one_is_a_mistake_in_a_dry_run_too(
    source: Path, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    words = arguments(source, tmp_path / "out", small_model_dir)
    assert dry([*words, f"output.uri={uri.format(file=tmp_path / 'file')}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"output.uri: {uri.format(file=tmp_path / 'file')}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_jobs_plan_writes_the_plan_and_the_forecast(
    source: Path, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*arguments(source, tmp_path / "out", small_model_dir), "plan.probe_recordings=2"]
    assert job.main([*words, f"source.uri={os.path.relpath(source)}"]) == 0
    kept = Path(yaml.safe_load((tmp_path / "out/_run/config.yaml").read_text())["source"]["uri"])
    assert (kept.is_absolute(), kept.resolve()) == (True, source.resolve()), "jobs.export reads it in any folder"
    stored = json.loads((tmp_path / "out" / "_run" / "forecast.json").read_text())
    assert (stored["units"], stored["recordings"]) == (4, 6)
    assert stored["probed"] in (1, 2)  # two are drawn, perhaps the same one
    assert stored["audio_hours"]["low"] < stored["audio_hours"]["value"] < stored["audio_hours"]["high"]
    assert (tmp_path / "out" / "_run" / "plan.parquet").is_file()
    assert "recordings are few" in capsys.readouterr().out


def test_only_a_job_with_a_dry_run_takes_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        job.main(["--dry-run"])
    assert error.value.code == 2
    with pytest.raises(SystemExit) as help_shown:
        transcribe_job.main(["--help"])
    assert help_shown.value.code == 0
    assert "nothing is written to output.uri" in " ".join(capsys.readouterr().out.split())


def test_an_index_is_written_beside_each_shard_before_planning(
    source: Path, small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("a", "b"):
        with tarfile.open(shards / f"{name}.tar", "w") as packing:
            packing.add(source, ".")
    words = [
        *arguments(shards, tmp_path / "out", small_model_dir),
        "source.format=webdataset",
        "plan.probe_recordings=0",
    ]
    for expected in (2, 0):
        assert job.main([*words, "--index"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{expected} indexes written for 2 archives"
        assert lines[2].split()[:3] == ["plan", "4", "12"]
    assert sorted(path.name for path in shards.iterdir()) == ["a.tar", "a.tar.idx.json", "b.tar", "b.tar.idx.json"]
