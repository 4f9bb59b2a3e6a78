"""jobs.bench list: its rows, and that all objects of the distant store were listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import bench as job


def test_rows_hold_each_layout_of_the_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "list.json"
    assert job.main(["list", "--objects", "3500", "--delay-ms", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["objects"], row["layout"]) for row in rows] == [(3500, "one folder"), (3500, "folders of 1000")]
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 and row["peak_rss_mb"] > 20 for row in rows)
    assert all(4 <= row["requests"] <= 20 for row in rows)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown] == [["objects", "layout"], ["3,500", "one"], ["3,500", "folders"]]
