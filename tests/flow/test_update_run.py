"""An archive grows, and the driver of its update is killed: after the same command again all is there once."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.archives import archive, arguments, wav
from tests.support.drivers import HANG, committed, finish, held, kill, start


@pytest.mark.slow
@pytest.mark.timeout(HANG + 300)
def test_an_update_whose_driver_is_killed_ends_exactly(tmp_path: Path, small_model_dir: Path) -> None:
    source, output, log = archive(tmp_path / "in", 8), tmp_path / "out", tmp_path / "log"
    words = [*arguments(source, output, small_model_dir), "plan.unit_recordings=1"]
    finish(words, log)
    before = committed(output)
    archive(tmp_path / "more", 24)
    for number in range(8, 24):
        (tmp_path / f"more/r{number:03d}.wav").rename(source / f"r{number:03d}.wav")
    wav(source / "r003.wav", 4.0, seed=99)
    (source / "r005.wav").unlink()
    driver = start([*words, "plan.update=true"], log, **held(tmp_path / "hold"))
    deadline = time.monotonic() + HANG
    try:
        while committed(output) < before + 3:
            assert driver.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert kill(driver.pid, "driver")
    finally:
        driver.kill()
        driver.wait()
    assert before < committed(output) < before + 17
    finish([*words, "plan.update=true"], log)
    assert sorted(path.name for path in (output / "_run").glob("round-*")) == ["round-1.parquet"]
    columns = ["recording_id", "segment_index", "end_ms"]
    rows = pq.read_table(output / "transcripts", columns=columns).to_pylist()
    assert max(Counter((row["recording_id"], row["segment_index"]) for row in rows).values()) == 1
    assert {row["recording_id"] for row in rows} == {f"r{number:03d}.wav" for number in range(24)}
    assert max(row["end_ms"] for row in rows if row["recording_id"] == "r003.wav") == 4_000  # it was shorter before
    books = json.loads((output / "_run/accounting.json").read_text())
    assert (books["closed"], books["recordings_planned"]) == (True, 24)
