"""jobs.bench soak: after drivers that were stopped, the last one closes the books; what was too short is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import bench as job
from tests.support.drivers import HANG


@pytest.mark.slow
@pytest.mark.timeout(HANG)
def test_a_soak_of_seconds_is_closed_but_too_short_to_be_flat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "soak.json"
    short = ["--hours", "0.005", "--kill-every-minutes", "60", "--sample-every-seconds", "1"]
    assert job.main(["soak", *short, "--json", str(path)]) == 1
    figures = json.loads(path.read_text())
    assert figures["books"]["closed"]
    assert figures["books"]["rows"] == figures["books"]["rows_expected"] > 0
    assert figures["books"]["differing"] == []
    assert len(figures["stop_seconds"]) == 3
    assert figures["processes_left"] == 0
    assert {sample[figures["columns"].index("role")] for sample in figures["samples"]} >= {"driver"}
    assert "driver: no process lived long enough" in figures["complaints"]
    assert capsys.readouterr().out.splitlines()[-1] == figures["complaints"][-1]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_hours_are_a_number_above_0(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        job.main(["soak", f"--hours={value}"])
    assert stop.value.code == 2
    assert f"argument --hours: '{value}' is not a number above 0" in capsys.readouterr().err
