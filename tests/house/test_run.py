"""A run from its plan to its report. Ray does not start if there is nothing to transcribe."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from jobs.transcribe import main as transcribe_main
from jobs.transcribe import run as transcribe_job
from pipeline.config import ConfigError, RunConfig
from pipeline.config_file import load
from pipeline.output.commit import commit_key, committed_units, read_commits
from pipeline.output.terminal import source_line
from pipeline.planning.fingerprint import fingerprint_id
from pipeline.planning.plan import plan_size, read_fingerprint, read_plan
from pipeline.run import dead_fraction, prepare, transcribe
from pipeline.storage.base import Storage, open_storage
from pipeline.storage.errors import StorageError
from tests.support.archives import archive, arguments, settings, wav
from tests.support.outputs import commit, left


@pytest.fixture
def config(tmp_path: Path, small_model_dir: Path) -> RunConfig:
    return settings(archive(tmp_path / "in", 10), tmp_path / "out", small_model_dir)


def commit_units(storage: Storage, fingerprint: str, count: int) -> None:
    for unit in left(storage)[:count]:
        commit(storage, unit, fingerprint)


def fingerprint_of(storage: Storage) -> str:
    return fingerprint_id(read_fingerprint(storage))


def rows(config: RunConfig) -> set[str]:
    table = pq.read_table(Path(config.output.uri) / "transcripts", columns=["recording_id"])
    return set(table["recording_id"].to_pylist())


def test_preparing_plans_and_transcribes_nothing(config: RunConfig) -> None:
    storage = prepare(config)
    assert plan_size(storage).units == 4  # for one replica
    assert plan_size(storage).recordings == 10
    assert list(storage.list("commits/")) == []


def test_the_resolved_config_is_beside_the_output(config: RunConfig) -> None:
    storage = prepare(config)
    assert RunConfig.model_validate(yaml.safe_load(storage.get("_run/config.yaml"))) == config


def test_publishing_alone_shows_what_is_committed_so_far(config: RunConfig) -> None:
    storage = prepare(config)
    done = {ref.recording_id for unit in left(storage)[:2] for ref in unit.refs}
    commit_units(storage, fingerprint_of(storage), 2)
    summary = transcribe(config.model_copy(update={"publish": True}))
    assert (summary["units_committed"], summary["units_planned"], summary["complete"]) == (2, 4, False)
    assert rows(config) == done
    assert storage.exists("report.html")


def test_publishing_where_nothing_is_planned_is_refused(config: RunConfig) -> None:
    open_storage(config.output.uri)
    with pytest.raises(ConfigError, match="nothing is planned"):
        transcribe(config.model_copy(update={"publish": True}))


def test_a_run_that_finds_everything_committed_publishes_without_ray(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it would raise
    storage = prepare(config)
    commit_units(storage, fingerprint_of(storage), 4)
    assert transcribe(config)["complete"]
    assert len(rows(config)) == 10
    part = Path(config.output.uri) / "transcripts" / "part-00000.parquet"
    before = part.stat().st_ino
    assert transcribe(config)["complete"]
    assert part.stat().st_ino == before, "the output is published already, so it does not change"


@pytest.mark.parametrize("missing", ["transcripts/part-00000.parquet", "report.html", "_run/summary.json"])
def test_a_missing_file_of_a_publication_is_written_again(config: RunConfig, missing: str) -> None:
    storage = prepare(config)
    commit_units(storage, fingerprint_of(storage), 4)
    transcribe(config)
    storage.delete(missing)
    transcribe(config)
    assert storage.exists(missing)


def test_the_same_command_says_what_the_source_has_gained_and_an_update_takes_it_up(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan_with(**settings: bool) -> RunConfig:
        return config.model_copy(update={"plan": config.plan.model_copy(update=settings)})

    storage = prepare(config)
    commit_units(storage, fingerprint_of(storage), 4)
    assert not source_line(transcribe(config))
    archive(Path(config.source.uri), 12)  # writes the first ten again
    (Path(config.source.uri) / "r009.wav").unlink()
    summary = transcribe(config)
    assert source_line(summary) == (
        "WARN the source has changed since it was planned: 2 new, 9 changed, 1 gone: plan.update=true takes them up"
    )
    assert json.loads(storage.get("_run/summary.json")) == summary
    assert transcribe_job(config) == 0
    assert transcribe_job(plan_with(strict=True)) == 1
    assert "WARN the source has changed" in capsys.readouterr().out
    prepare(plan_with(update=True))
    commit_units(storage, fingerprint_of(storage), 100)
    summary = transcribe(plan_with(update=True, strict=True))
    assert (summary["recordings"], summary["closed"], source_line(summary)) == (12, True, None)
    assert len(rows(config)) == 12


def test_a_source_that_is_gone_stops_neither_a_resume_nor_a_publication(config: RunConfig) -> None:
    storage = prepare(config)
    commit_units(storage, fingerprint_of(storage), 4)
    for path in Path(config.source.uri).iterdir():
        path.unlink()
    assert transcribe(config)["complete"]
    with pytest.raises((ConfigError, StorageError)):
        transcribe(config.model_copy(update={"plan": config.plan.model_copy(update={"update": True})}))


def test_more_replicas_do_not_change_a_plan_that_is_there(config: RunConfig) -> None:
    def units(replicas: int) -> list[str]:
        compute = config.compute.model_copy(update={"replicas_max": replicas})
        storage = prepare(config.model_copy(update={"compute": compute}))
        return [planned.unit.unit_id for planned in read_plan(storage)]

    assert units(1) == units(3)
    Path(config.output.uri).rename(Path(config.output.uri).with_name("first"))
    assert len(units(3)) == 10  # twelve are wanted, but there are ten recordings


@pytest.mark.parametrize(("transcribed", "dead", "fraction"), [(9, 1, 0.1), (0, 2, 1.0), (5, 0, 0.0), (0, 0, 0.0)])
def test_dead_fraction(transcribed: int, dead: int, fraction: float) -> None:
    assert dead_fraction({"recordings_transcribed": transcribed, "recordings_dead_lettered": dead}) == fraction


def test_a_run_whose_budget_is_spent_ends_before_ray_starts_and_shows_what_is_there(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.in_process import transcribe_here  # imports torch

    source = archive(tmp_path / "in", 4, seconds=1.2)
    for number in range(3):
        (source / f"a{number}.wav").write_bytes(b"")
    words = [*arguments(source, tmp_path / "out", small_model_dir), "plan.unit_recordings=1"]
    config = load(RunConfig, None, words)
    transcribe_here(config)
    storage = open_storage(config.output.uri)
    good = [commit["unit_id"] for commit in read_commits(storage) if not commit["dead"]]
    for unit in good[:2]:
        storage.delete(commit_key(unit))
    storage.delete("_run/summary.json")  # the run that committed the others was killed before it published
    assert transcribe_main([*words, "budget.max_dead_fraction=0.4"]) == 1
    shown = capsys.readouterr()
    line = "42.9% of the recordings are dead letters, budget.max_dead_fraction allows 40.0%; stopped before the end"
    assert line in shown.err
    assert "Ray" not in shown.err
    assert "3 dead letters (empty_file 3)" in shown.out
    assert "5 of 7 units so far" in shown.out
    assert len(committed_units(storage)) == 5


def test_an_archive_that_cannot_be_read_spends_the_budget_by_its_bytes_before_ray_starts(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = wav(tmp_path / "r.wav", 1.0) * 2 + 44
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/good.tar", "w") as tar:
        for number in range(8):
            tar.add(tmp_path / "r.wav", f"r{number}.wav")
    (tmp_path / "in/bad.tar").write_bytes(b"?" * 2 * size)  # as many bytes as two recordings
    words = [word for word in arguments(tmp_path / "in", tmp_path / "out", small_model_dir) if "format" not in word]
    assert transcribe_main([*words, "source.format=webdataset", "budget.max_dead_fraction=0.05"]) == 1
    shown = capsys.readouterr()
    assert "10.0% of the recordings are dead letters" in shown.err  # one more than the archive itself
    assert "Ray" not in shown.err
