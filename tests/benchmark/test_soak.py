"""jobs.bench soak: a time that is none is refused; what was seen before a driver failed is kept and judged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jobs import bench as job
from pipeline.benchmark import soak


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_hours_are_a_number_above_0(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        job.main(["soak", f"--hours={value}"])
    assert stop.value.code == 2
    assert f"argument --hours: '{value}' is not a number above 0" in capsys.readouterr().err


def test_each_stage_is_killed_and_lives_through_one_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "_kill", lambda _driver, _stage: True)
    made = soak._Soak(tmp_path, tmp_path / "ray", hours=0.001, kill_seconds=0.0, every_seconds=1e9)
    made._sample_at = 1e9
    killed = []
    for stages in soak.KILLED:
        made.kills.clear()
        for _ in range(4):
            made._look(os.getpid(), stages)
        killed.append([stage for _, stage, _ in made.kills])
    replica, decoder = soak.REPLICA, soak.DECODER
    assert killed == [[replica, decoder] * 2, [decoder] * 4, [replica] * 4]


def test_a_driver_that_ends_by_itself_is_a_complaint_beside_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "SETTINGS", (*soak.SETTINGS, "model.name=no-such-model"))
    file = tmp_path / "soak.json"
    assert job.main(["soak", "--hours=0.05", "--sample-every-seconds=0.1", f"--json={file}"]) == 1
    figures = json.loads(file.read_text(encoding="utf-8"))
    first, last = figures["failures"]
    assert "s driver 1 ended by itself with 2:" in first
    assert "model.name: no-such-model" in first
    assert "s the last driver ended with 2:" in last
    assert "driver" in figures["roles"]
    assert figures["samples"]
    shown = capsys.readouterr().out
    assert first in shown
    assert "books NOT CLOSED" in shown
