"""Recordings that crash their process or hang in it become dead letters. Their neighbours are transcribed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.audio.stage import recording_row
from pipeline.config import ComputeConfig
from pipeline.flow.cluster import ray_cluster
from pipeline.flow.suspects import Crash, run_alone
from pipeline.output.attempts import PREFIX
from pipeline.run import transcribe
from pipeline.schemas import (
    AUDIO_COLUMNS,
    PIECE_DECODED,
    PIECE_RECOGNISED,
    SPAN,
    START,
    DecodedRecording,
    Place,
    Position,
    SegmentResult,
    WorkUnit,
    piece_row,
    to_table,
)
from pipeline.storage.base import open_storage
from tests.support.archives import archive, settings
from tests.support.drivers import HANG, POISON
from tests.support.outputs import ref


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
@pytest.mark.timeout(HANG)
def test_the_recording_that_crashes_its_process_is_found_among_its_neighbours(
    poison: Path, tmp_path: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.flow.bundles.SHARES", 1)  # all units are in one bundle
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
    answered = {name: value for name, value in row.items() if name not in AUDIO_COLUMNS} | {"results": []}
    decoder: Any = Shaky(deaths[0], to_table([row], PIECE_DECODED))
    model: Any = Shaky(deaths[1], to_table([answered], PIECE_RECOGNISED))
    ((_, _, (answered_recording,), results),) = run_alone([(unit, place)], decoder, model)
    assert results == []
    assert (answered_recording.problem and answered_recording.problem.reason) == reason
    assert answered_recording.samples == (None if reason else 5)


class Poisoned:
    """A decoder of three pieces with three windows each, or a model; the process dies on what `is_deadly` says."""

    def __init__(self, is_deadly: Callable[[dict[str, Any]], bool], schema: pa.Schema) -> None:
        self.is_deadly, self.schema, self.calls = is_deadly, schema, 0

    def call(self, table: pa.Table) -> pa.Table:
        self.calls += 1
        (row,) = table.to_pylist()
        if self.is_deadly(row):
            raise Crash("crashed", "the process died")
        return to_table([self.decoded(row) if self.schema is PIECE_DECODED else recognised(row)], self.schema)

    @staticmethod
    def decoded(row: dict[str, Any]) -> dict[str, Any]:
        number = row["start"]["sample"] // 48_000
        following = None if number == 2 else replace(START, sample=48_000 * (number + 1), segment=3 * (number + 1))
        segments = [
            {"recording_index": 0, "segment_index": 3 * number + index, "channel": None, "key": "k", "language": "de"}
            | {"start_sample": at, "end_sample": at + 16_000, "overlaps_previous": False, "pcm_offset": 32_000 * index}
            for index, at in enumerate(range(48_000 * number, 48_000 * (number + 1), 16_000))
        ]
        start = Position(**row["start"])
        known = piece_row(row["unit_id"], Place(**row["place"]), number, start, following)
        ended = [recording_row(0, DecodedRecording(samples=144_000))] if following is None else []
        return known | {"segments": segments, "pcm": bytes(96_000), "samples": 48_000, "recordings": ended}

    def end(self) -> None:
        pass


def recognised(row: dict[str, Any]) -> dict[str, Any]:
    results = [
        {name: segment[name] for name, _ in SPAN} | asdict(SegmentResult(text=f"w{segment['segment_index']}"))
        for segment in row["segments"]
    ]
    return {name: value for name, value in row.items() if name not in AUDIO_COLUMNS} | {"results": results}


@pytest.mark.parametrize(
    ("decoder_dies", "model_dies", "words", "damage", "samples"),
    [
        (lambda row: row["start"]["sample"] == 96_000, None, "w0 w1 w2 w3 w4 w5", ("crashed", "decode"), 160_000),
        (None, lambda row: 4 in indices(row), "w0 w1 w2 w3 - w5 w6 w7 w8", None, 144_000),
        (None, lambda row: max(indices(row)) > 5, "w0 w1 w2 w3 w4 w5", ("crashed", "model"), 160_000),
        (None, lambda row: True, "", None, None),
    ],
)
def test_what_was_recognised_before_and_beside_a_crash_is_kept(
    decoder_dies: Any, model_dies: Any, words: str, damage: tuple[str, str] | None, samples: int | None
) -> None:
    unit, place = WorkUnit("ab" * 8, (ref(0, seconds=10.0),)), Place("plan", 0, 0, 1)
    decoder: Any = Poisoned(decoder_dies or (lambda _: False), PIECE_DECODED)
    model: Any = Poisoned(model_dies or (lambda _: False), PIECE_RECOGNISED)
    ((_, _, (recording,), results),) = run_alone([(unit, place)], decoder, model)
    assert " ".join(result["text"] or "-" for result in results) == words
    assert (recording.damage and (recording.damage.reason, recording.damage.stage)) == damage
    assert recording.samples == samples
    assert recording.lost_samples == (64_000 if damage else 0)
    assert (recording.problem and recording.problem.reason) == (None if words else "crashed")


def indices(row: dict[str, Any]) -> list[int]:
    return [segment["segment_index"] for segment in row["segments"]]


def transcribed(output: Path) -> set[str]:
    """The ids in the transcripts. No segment is there twice."""
    table = pq.read_table(output / "transcripts", columns=["recording_id", "segment_index"])
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert len(set(rows)) == len(rows)
    return {name for name, _ in rows}
