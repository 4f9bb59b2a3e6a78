"""Recordings that kill their process or hang in it: they are dead letters, their neighbours are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.attempts import PREFIX
from pipeline.storage import open_storage
from tests.archives import archive, arguments

POISON = Path(__file__).parent / "poison"


@pytest.mark.timeout(600)
def test_who_breaks_the_process_is_found_among_its_neighbours(tmp_path: Path, small_model_dir: Path) -> None:
    source = archive(tmp_path / "in", 11)
    # Units of 4, something in each. Who dies once alone, of whatever the machine had, is no culprit.
    for name, word in (("r001", b"POISON"), ("r005", b"HANG"), ("r009", b"FRAIL")):
        with (source / f"{name}.wav").open("ab") as stream:
            stream.write(word)
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    words = arguments(source, tmp_path / "out", small_model_dir)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.transcribe", *words, "compute.unit_timeout_seconds=25"],
        env=os.environ | {"PYTHONPATH": str(POISON), "FRAIL_DEATHS": str(deaths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    letters = pq.read_table(tmp_path / "out/dead_letters").to_pylist()
    assert {(row["recording_id"], row["reason"], row["stage"]) for row in letters} == {
        ("r001.wav", "crashed", "decode"),
        ("r005.wav", "timeout", "decode"),
    }
    rows = pq.read_table(tmp_path / "out/transcripts", columns=["recording_id"])["recording_id"].to_pylist()
    assert set(rows) == {f"r{number:03d}.wav" for number in (0, 2, 3, 4, 6, 7, 8, 9, 10)}
    assert len(list(deaths.iterdir())) == 4
    assert json.loads((tmp_path / "out/_run/accounting.json").read_text())["closed"]
    assert list(open_storage(str(tmp_path / "out")).list(PREFIX)) == []
