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
    source = archive(tmp_path / "in", 14)
    # Units of 4, something in each. Who dies once alone, of whatever the machine had, is no culprit.
    for name, word in (("r001", b"POISON"), ("r005", b"HANG"), ("r009", b"FRAIL")):
        with (source / f"{name}.wav").open("ab") as stream:
            stream.write(word)
    with (source / "r013.wav").open("r+b") as stream:  # among its samples, which the model is given
        stream.seek(20_000)
        stream.write(b"VENOM")
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    words = arguments(source, tmp_path / "out", small_model_dir)
    environment = {"PYTHONPATH": str(POISON), "FRAIL_DEATHS": str(deaths)}
    run([*words, "compute.unit_timeout_seconds=15"], environment)
    letters = pq.read_table(tmp_path / "out/dead_letters").to_pylist()
    assert {(row["recording_id"], row["reason"], row["stage"]) for row in letters} == {
        ("r001.wav", "crashed", "decode"),
        ("r005.wav", "timeout", "decode"),
        ("r013.wav", "crashed", "model"),
    }
    assert len(letters) == 3
    everybody = {f"r{number:03d}.wav" for number in range(14)}
    assert heard(tmp_path / "out") == everybody - {"r001.wav", "r005.wav", "r013.wav"}
    assert len(list(deaths.iterdir())) == 4
    assert json.loads((tmp_path / "out/_run/accounting.json").read_text())["closed"]
    assert list(open_storage(str(tmp_path / "out")).list(PREFIX)) == []

    run([*words, "retry=dead_letters"], {})  # the poison is gone
    assert pq.read_table(tmp_path / "out/dead_letters").num_rows == 0
    assert heard(tmp_path / "out") == everybody
    assert json.loads((tmp_path / "out/_run/accounting.json").read_text())["closed"]


def run(words: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "jobs.transcribe", *words]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def heard(output: Path) -> set[str]:
    """Ids in the transcripts, none of whose segments is there twice."""
    table = pq.read_table(output / "transcripts", columns=["recording_id", "segment_index"])
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert len(set(rows)) == len(rows)
    return {name for name, _ in rows}
