"""Recordings that crash their process or hang in it become dead letters. Their neighbours are transcribed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ComputeConfig
from pipeline.flow.cluster import ray_cluster
from pipeline.flow.suspects import Crash, run_alone
from pipeline.output.attempts import PREFIX
from pipeline.run import transcribe
from pipeline.schemas import (
    PIECE_DECODED,
    PIECE_RECOGNISED,
    START,
    DecodedRecording,
    Place,
    WorkUnit,
    piece_row,
    to_table,
)
from pipeline.storage.base import open_storage
from tests.support.archives import archive, settings
from tests.support.outputs import ref

POISON = Path(__file__).parents[1] / "support/poison"


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local Ray. As long as this file exists, its processes crash or hang on marked recordings."""
    flag = tmp_path / "poison"
    flag.touch()
    monkeypatch.setenv("FULLCANVAS_POISON", str(flag))
    monkeypatch.setenv("PYTHONPATH", str(POISON))
    with ray_cluster(ComputeConfig()):
        yield flag


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_recording_that_crashes_its_process_is_found_among_its_neighbours(
    poison: Path, tmp_path: Path, small_model_dir: Path
) -> None:
    source = archive(tmp_path / "in", 10)
    for name, word in (("r001", b"POISON"), ("r005", b"HANG")):  # units of 4
        with (source / f"{name}.wav").open("ab") as stream:
            stream.write(word)
    for name in ("r001", "r005", "r009"):
        (source / f"{name}.txt").write_text(f"text of {name}")
    with (source / "r009.wav").open("r+b") as stream:  # in its samples, so that the model receives it
        stream.seek(20_000)
        stream.write(b"VENOM")
    config = settings(source, tmp_path / "out", small_model_dir, "compute.unit_timeout_seconds=12")
    transcribe(config)
    letters = pq.read_table(tmp_path / "out/dead_letters").to_pylist()
    assert {(row["recording_id"], row["reason"], row["stage"]) for row in letters} == {
        ("r001.wav", "crashed", "decode"),
        ("r005.wav", "timeout", "decode"),
        ("r009.wav", "crashed", "model"),
    }
    assert len(letters) == 3
    assert {row["reference"] for row in letters} == {
        None,
        "text of r009",
    }  # a recording that crashes the decoder is not read again
    everybody = {f"r{number:03d}.wav" for number in range(10)}
    assert transcribed(tmp_path / "out") == everybody - {"r001.wav", "r005.wav", "r009.wav"}
    assert json.loads((tmp_path / "out/_run/accounting.json").read_text())["closed"]
    assert list(open_storage(str(tmp_path / "out")).list(PREFIX)) == []

    poison.unlink()
    transcribe(config.model_copy(update={"retry": "dead_letters"}))
    assert pq.read_table(tmp_path / "out/dead_letters").num_rows == 0
    assert transcribed(tmp_path / "out") == everybody
    assert json.loads((tmp_path / "out/_run/accounting.json").read_text())["closed"]


class Shaky:
    """A cell whose process dies `deaths` times before it works."""

    def __init__(self, deaths: int, answer: pa.Table) -> None:
        self.deaths, self.answer, self.calls = deaths, answer, 0

    def call(self, _table: pa.Table) -> pa.Table:
        self.calls += 1
        if self.calls <= self.deaths:
            raise Crash("crashed", "the process died")
        return self.answer

    def end(self) -> None:
        pass


@pytest.mark.parametrize(("deaths", "reason"), [((0, 0), None), ((1, 0), None), ((0, 1), None), ((2, 0), "crashed")])
def test_a_recording_that_crashes_once_alone_is_transcribed_and_one_that_crashes_twice_is_not(
    deaths: tuple[int, int], reason: str | None
) -> None:
    unit, place = WorkUnit("ab" * 8, (ref(0),)), Place("plan", 0, 0, 1)
    recording = asdict(DecodedRecording(samples=5)) | {"recording_index": 0}
    row = piece_row(unit.unit_id, place, 0, START, None) | {"recordings": [recording]}
    answered = {name: value for name, value in row.items() if name not in ("segments", "pcm")} | {"results": []}
    decoder: Any = Shaky(deaths[0], to_table([row], PIECE_DECODED))
    model: Any = Shaky(deaths[1], to_table([answered], PIECE_RECOGNISED))
    ((_, _, (answered_recording,), results),) = run_alone([(unit, place)], decoder, model)
    assert results == []
    assert (answered_recording.problem and answered_recording.problem.reason) == reason
    assert answered_recording.samples == (None if reason else 5)


def transcribed(output: Path) -> set[str]:
    """The ids in the transcripts. No segment is there twice."""
    table = pq.read_table(output / "transcripts", columns=["recording_id", "segment_index"])
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert len(set(rows)) == len(rows)
    return {name for name, _ in rows}
