"""jobs.bench soak: a time that is none is refused; what was seen before a driver failed is kept and judged."""

from __future__ import annotations

import json
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
