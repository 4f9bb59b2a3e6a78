"""jobs.bench flow: every unit comes back once through the real chain, and a driver above a bound is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import bench as job
from pipeline.benchmark import flow


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_row_has_what_a_unit_costs_the_driver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures" / "flow.json"
    assert job.main(["flow", "--units", "60", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert row["units"] == 60
    assert row["driver_ms_per_unit"] > 0
    assert 0 < row["first_receipt_seconds"] <= row["seconds"]
    assert row["peak_rss_mb"] > 50
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:2] == ["units", "seconds"]
    assert shown[-1].startswith("60 units: ")


def test_every_bound_that_is_broken_is_named() -> None:
    row = {"units": 5, "driver_ms_per_unit": 4.0, "first_receipt_seconds": 16.0, "peak_rss_mb": 1_001}
    said = flow.verdict(row)
    assert said == "5 units: first_receipt_seconds 16.0 is ABOVE 15.0; peak_rss_mb 1,001 is ABOVE 1,000"
    within = row | {"first_receipt_seconds": 15.0, "peak_rss_mb": 1_000}
    assert flow.verdict(within) == "5 units: the driver is within its bounds"
