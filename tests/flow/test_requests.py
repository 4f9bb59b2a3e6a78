"""What a unit costs the output's store in requests, in a whole run with planning and publishing (docs/scale.md)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.benchmark.distant import distant_store
from pipeline.run import transcribe
from tests.support.archives import archive, settings
from tests.support.drivers import HANG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(HANG)]

MORE = 24  # units of the second archive beyond those of the first


def requests(folder: Path, units: int, model: Path) -> Counter[str]:
    """Transcribe units of one recording each. Returns the requests by method."""
    source = archive(folder / str(units), units)
    with distant_store(0.0) as store:
        config = settings(source, folder, model, f"output.uri={store.uri}", "plan.unit_recordings=1")
        assert transcribe(config)["recordings_transcribed"] == units
        return store.requests()


def test_a_unit_costs_its_store_fifteen_requests(tmp_path: Path, small_model_dir: Path) -> None:
    """Each further one: two markers are put and deleted, a file and a commit are put and read, the rest is looking."""
    more = requests(tmp_path, 12 + MORE, small_model_dir)
    more.subtract(requests(tmp_path, 12, small_model_dir))
    each = {method: round(count / MORE, 1) for method, count in more.items()}
    # A sign of life every 30 s is a put, and a process that reads a part of the plan asks for it once.
    assert each == pytest.approx({"PUT": 4.1, "DELETE": 2.1, "LIST": 3.1, "HEAD": 2.2, "GET": 2.2}, abs=0.3)
