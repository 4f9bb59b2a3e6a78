"""The commit stage works on many rows at the same time, and each unit is committed once all the same."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from pipeline.audio.stage import recording_row
from pipeline.output.commit import commit_unit, new_attempt, read_commit, read_unit
from pipeline.output.pieces import PREFIX
from pipeline.output.stage import COMMITS_AT_ONCE, CommitStage
from pipeline.planning.pack import PlannedUnit
from pipeline.planning.plan import BASE, write_plan
from pipeline.schemas import (
    PIECE_RECOGNISED,
    START,
    About,
    DecodedRecording,
    Place,
    Position,
    WorkUnit,
    piece_row,
    to_table,
)
from pipeline.storage.base import open_storage
from pipeline.storage.local import LocalStorage
from tests.support.archives import settings
from tests.support.outputs import plan, ref, results

PIECES = 3
ABOUT = About(1.0, ("de",), "tiny@1", "f" * 16)
UNITS = [WorkUnit(f"{number * 37:016x}", (ref(number),)) for number in range(40)]


class Meeting(LocalStorage):
    """A directory whose puts of data, or of commits, wait until so many have begun. Alone, a put fails."""

    def __init__(self, root: Path, prefix: str, number: int) -> None:
        super().__init__(root)
        self.parallel = number
        self._prefix, self._barrier = prefix, Barrier(number, timeout=60)

    def put(self, key: str, data: bytes | Path) -> None:
        self._meet(key)
        super().put(key, data)

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        self._meet(key)
        return super().put_if_absent(key, data)

    def _meet(self, key: str) -> None:
        if key.startswith(self._prefix):
            self._barrier.wait()


@pytest.fixture
def stage(tmp_path: Path) -> CommitStage:
    write_plan(open_storage(str(tmp_path)), BASE, [PlannedUnit(unit) for unit in UNITS])
    return CommitStage(settings(tmp_path, tmp_path, Path("unused")), ABOUT)


def rows_of(number: int, pieces: int = PIECES) -> list[dict[str, Any]]:
    """The pieces of a unit with one recording, one segment in each, as the model returns them."""
    starts = [START, *(Position(sample=16_000 * piece) for piece in range(1, pieces))]
    rows = []
    for piece, (start, following) in enumerate(pairwise([*starts, None])):
        assert start is not None
        row = piece_row(UNITS[number].unit_id, Place(BASE, 0, number, 1), piece, start, following)
        result = {"recording_index": 0, "segment_index": piece, "channel": None, "overlaps_previous": False}
        result |= {"start_sample": 16_000 * piece, "end_sample": 16_000 * (piece + 1), "text": f"wort {piece}"}
        result |= {
            "error": None,
            "language": None,
            "confidence": 0.5,
            "words": [],
            "signals": None,
            "steps": 4,
            "canvas_length": 16,
        }
        row |= {"samples": 16_000, "results": [result | {"canvas_fill": 0.25, "overflow": False}]}
        rows.append({name: value for name, value in row.items() if name in PIECE_RECOGNISED.names})
    rows[-1]["recordings"] = [recording_row(0, DecodedRecording(samples=16_000 * pieces))]
    return rows


def test_rows_of_one_call_are_committed_at_the_same_time(stage: CommitStage, tmp_path: Path) -> None:
    stage.storage = Meeting(tmp_path, "commits/", COMMITS_AT_ONCE)
    rows = [rows_of(number, pieces=1)[0] for number in range(2 * COMMITS_AT_ONCE)]
    receipts = stage(to_table(rows, PIECE_RECOGNISED))
    assert receipts["unit_id"].to_pylist() == [row["unit_id"] for row in rows]
    assert set(receipts["won"].to_pylist()) == {True}


def test_rows_of_many_calls_are_committed_at_the_same_time(stage: CommitStage, tmp_path: Path) -> None:
    stage.storage = Meeting(tmp_path, "commits/", COMMITS_AT_ONCE)
    calls = [to_table(rows_of(number, pieces=1), PIECE_RECOGNISED) for number in range(2 * COMMITS_AT_ONCE)]
    with ThreadPoolExecutor(COMMITS_AT_ONCE) as ray:
        assert {receipt["won"][0].as_py() for receipt in ray.map(stage, calls)} == {True}


def test_transcripts_and_dead_letters_of_a_unit_are_written_at_the_same_time(tmp_path: Path) -> None:
    storage = Meeting(tmp_path, "data/", 2)
    unit = WorkUnit("ab" * 8, (ref(0), ref(1)))
    tables = results(unit, fingerprint := plan(storage, unit.refs), dead=["r1"])
    assert commit_unit(storage, unit, new_attempt(), *tables, fingerprint).dead == {"model_error": 1}
    assert {len(table) for table in read_unit(storage, read_commit(storage, unit.unit_id)).values()} == {1, 2}


@pytest.mark.parametrize("seed", range(5))
def test_each_unit_is_committed_once_if_all_pieces_come_at_the_same_time(stage: CommitStage, seed: int) -> None:
    calls = [to_table([row], PIECE_RECOGNISED) for number in range(len(UNITS)) for row in rows_of(number)]
    random.Random(seed).shuffle(calls)
    with ThreadPoolExecutor(COMMITS_AT_ONCE) as ray:
        receipts = [receipt for table in ray.map(stage, calls) for receipt in table.to_pylist()]
    assert Counter(receipt["unit_id"] for receipt in receipts if receipt["done"]) == Counter(
        unit.unit_id for unit in UNITS
    )
    assert sum(receipt["samples"] for receipt in receipts) == len(UNITS) * PIECES * 16_000
    for unit in UNITS:
        transcripts = read_unit(stage.storage, read_commit(stage.storage, unit.unit_id))["transcripts"]
        assert transcripts["text"].to_pylist() == [f"wort {piece}" for piece in range(PIECES)]
    assert list(stage.storage.list(PREFIX)) == []
