"""jobs.bench publish: its rows, and that the pipeline's own code published what was made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import bench as job


def test_rows_hold_the_first_publication_and_one_with_nothing_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures" / "publish.json"
    assert job.main(["publish", "--units", "40", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["units"], row["publish"]) for row in rows] == [(40, "all"), (40, "nothing new")]
    assert all(row["peak_rss_mb"] > 20 and row["seconds"] > 0 for row in rows)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown] == [["units", "publish"], ["40", "all"], ["40", "nothing"]]
