"""jobs.bench read: both sides decode the same audio, and the figures of each layout follow from that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import bench as job


@pytest.mark.timeout(600)
def test_the_job_writes_a_row_for_each_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "read.json"
    assert job.main(["read", "--minutes", "0.2", "--delay-ms", "1", "--read-ahead", "2", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert (figures["delay_ms"], figures["read_ahead"]) == (1, 2)
    assert len(figures["rows"]) == 5
    for row in figures["rows"]:
        assert row["audio_seconds"] in (10.0, 12.0)
        assert row["far_to_local"] == pytest.approx(row["far_rtfx"] / row["local_rtfx"], rel=0.05)
    shown = capsys.readouterr().out
    assert "| tar of 5 s flac |" in shown
