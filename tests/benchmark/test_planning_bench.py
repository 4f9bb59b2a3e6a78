"""jobs.bench plan: what its rows say, that the pipeline's own code did the work, and that nothing of it stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import bench as job
from pipeline.benchmark import planning
from pipeline.config import PlanConfig, SourceConfig
from pipeline.output.accounting import close_books
from pipeline.output.commit import commit_key, committed_units, read_commit
from pipeline.planning.pack import pack_units
from pipeline.sources.formats import list_recordings
from pipeline.storage.local import LocalStorage

IDS = sorted(f"{number * 2_654_435_761 % 2**64:016x}" for number in range(1, 4_001))


def test_rows_hold_units_seconds_and_memory_of_every_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures" / "plan.json"
    assert job.main(["plan", "--units", "7", "40", "6x5", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    sizes = [(row["units"], row["recordings"], row["units_left"]) for row in rows]
    assert sizes == [(7, 7, 3), (40, 40, 20), (6, 30, 3)]
    for row in rows:
        parts = [row[f"{step}_seconds"] for step in ("plan", "resume", "account")]
        assert row["seconds"] == pytest.approx(sum(parts), abs=0.03)
        assert row["peak_rss_mb"] > 20
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:3] == ["units", "recordings", "seconds"]
    assert [line.split()[:2] for line in shown[1:4]] == [["7", "7"], ["40", "40"], ["6", "30"]]
    assert shown[-1].startswith("6 units, 30 recordings: the driver's peak of ")
    assert shown[-1].endswith(" MB is within the bound of 1,500 MB")


def test_a_driver_that_takes_too_much_memory_is_named() -> None:
    row = {"units": 5, "recordings": 10, "peak_rss_mb": planning.PEAK_MB + 1}
    assert "of 1,501 MB is ABOVE the bound" in planning.verdict(row)


def test_commits_that_are_files_give_the_same_books() -> None:
    made_up, files = (planning.measure_here(60, 1, commits) for commits in ("memory", "files"))
    assert made_up["units_left"] == files["units_left"] == 30
    assert files["plan_mb"] == made_up["plan_mb"]


@pytest.mark.parametrize("units", ["0", "-3", "many", "5x0", "5x", "x5"])
def test_a_size_that_is_none_is_a_usage_error(units: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        job.main(["plan", "--units", units])
    assert error.value.code == 2
    assert "--units" in capsys.readouterr().err


def test_made_up_commits_are_listed_and_read_as_files_are(tmp_path: Path) -> None:
    made_up, files = planning.MadeUpCommits(tmp_path / "a", IDS), LocalStorage(tmp_path / "b")
    for unit in IDS[:50]:
        files.put(commit_key(unit), planning.made_up_commit(unit))
    few = planning.MadeUpCommits(tmp_path / "a", IDS[:50])
    for prefix in ("commits/", "commits/0", "commits/00/", f"commits/{IDS[3][:2]}/", "commits/ff/"):
        assert list(few.list(prefix)) == list(files.list(prefix))
    assert committed_units(made_up) == set(IDS)  # more than are listed in one go
    assert read_commit(made_up, IDS[7]) == read_commit(files, IDS[7])


def test_a_commit_that_nobody_planned_is_found_in_the_books(tmp_path: Path) -> None:
    """The accounting is the real one: it would notice commits that are not those of the plan."""
    storage = planning.MadeUpCommits(tmp_path, IDS[:3])
    assert close_books(storage)["complaints"] == ["3 commits belong to no plan"]


def test_the_recordings_are_those_of_a_manifest_and_each_is_a_unit(tmp_path: Path) -> None:
    planning.write_manifest(tmp_path / "m.jsonl", 30)
    listed = list(list_recordings(SourceConfig(uri=str(tmp_path / "m.jsonl"), format="manifest", root="s3://archive")))
    made = list(planning.recordings(30))
    assert [ref.seconds for ref in listed] == [ref.seconds for ref in made] == [600.0] * 30
    assert len({ref.recording_id for ref in made}) == 30
    units = list(pack_units(made, PlanConfig(unit_recordings=1)))
    assert len({unit.unit_id for unit in units}) == 30


def test_units_of_many_recordings_are_whole() -> None:
    units = list(pack_units(planning.recordings(4, 256), PlanConfig(unit_recordings=256)))
    assert [len(unit.refs) for unit in units] == [256] * 4
    assert len({ref.recording_id for unit in units for ref in unit.refs}) == 1024
