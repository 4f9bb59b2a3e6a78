"""What committing costs: units a second of one finisher, on a local disk and on a store with a delay.

The finisher is the last stage of a run, called as Ray calls it, one piece in each call. The recognised pieces are
made up: ten minutes of speech in a unit, 35 words in each of its 40 segments.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from pipeline.audio.stage import recording_row
from pipeline.benchmark.distant import DistantStore, distant_store
from pipeline.benchmark.planning import ROWS, SAMPLES_EACH, SECONDS, recordings
from pipeline.config import OutputConfig, PlanConfig, RunConfig, SourceConfig
from pipeline.flow.bundles import as_block, rows_of
from pipeline.flow.guard import MeteredCommit
from pipeline.output.commit import committed_units
from pipeline.output.stage import COMMITS_AT_ONCE
from pipeline.planning.left import units_left
from pipeline.planning.pack import pack_units, with_parts
from pipeline.planning.plan import BASE, write_plan
from pipeline.schemas import (
    PIECE_RECOGNISED,
    START,
    WORD_SIGNALS,
    About,
    DecodedRecording,
    Place,
    Position,
    SegmentResult,
    Word,
    piece_row,
    to_table,
)
from pipeline.storage.base import Storage, open_storage
from pipeline.storage.scratch import scratch_folder

DELAY_SECONDS = 0.05  # of one request to the store
WORDS = 35  # of a segment
STORES = ("local", "distant")
SHOWN = ("store", "pieces", "units", "units_per_second", "processor_ms", "requests")
WIDTHS = {name: max(len(name), len("distant")) for name in SHOWN}


def measure(units: int) -> Iterator[dict[str, Any]]:
    """A row for each store and for units of one and of two pieces, as it is measured.

    units_per_second: by the wall. processor_ms: of this process for one unit. requests: to the store for one unit.
    """
    for store in STORES:
        for pieces in (1, 2):
            yield measure_one(store, units, pieces)


def measure_one(store: str, units: int, pieces: int) -> dict[str, Any]:
    """One row of `measure`. Raises RuntimeError if a unit is not committed."""
    with contextlib.ExitStack() as stack:
        distant: DistantStore | None = None
        if store == "distant":
            distant = stack.enter_context(distant_store(DELAY_SECONDS))
            uri = f"{distant.uri}/out"
        else:
            uri = str(stack.enter_context(scratch_folder("bench-")) / "out")
        config = RunConfig(source=SourceConfig(uri="s3://archive"), output=OutputConfig(uri=uri))
        storage = open_storage(uri)
        write_plan(
            storage,
            BASE,
            with_parts(pack_units(recordings(units), PlanConfig(unit_recordings=1)), config.output.part_rows),
        )
        rows = list(_rows(storage, pieces))
        commit = MeteredCommit(config, About(SECONDS, ("de",), "bench", "0" * 16))
        commit.stage.plans.unit(rows[0]["unit_id"], Place(**rows[0]["place"]))  # it keeps this part of the plan
        calls = [as_block(to_table([row], PIECE_RECOGNISED)) for row in rows]
        if distant:
            distant.requests()
        with ThreadPoolExecutor(COMMITS_AT_ONCE) as ray:
            started, used = time.perf_counter(), time.process_time()
            receipts = [rows_of(block) for block in ray.map(commit, calls)]
            seconds, processor = time.perf_counter() - started, time.process_time() - used
        requests = distant.requests().total() if distant else 0
        done = sum(receipt["done"][0].as_py() for receipt in receipts)
        if done != units or len(committed_units(storage)) != units:
            raise RuntimeError(f"{units} units expected, {done} done")
    return {
        "store": store,
        "delay_ms": round(DELAY_SECONDS * 1000) if distant else 0,
        "pieces": pieces,
        "units": units,
        "units_per_second": round(units / seconds, 1),
        "seconds": round(seconds, 4),
        "processor_ms": round(processor / units * 1000, 2),
        "requests": round(requests / units, 2) if distant else None,
    }


def header() -> str:
    """The names over the columns of `line`."""
    return "  ".join(f"{name:>{width}}" for name, width in WIDTHS.items())


def line(row: dict[str, Any]) -> str:
    """A row of `measure` for a terminal."""
    return "  ".join(f"{'-' if row[name] is None else row[name]:>{width}}" for name, width in WIDTHS.items())


def _rows(storage: Storage, pieces: int) -> Iterator[dict[str, Any]]:
    """The rows of PIECE_RECOGNISED of all planned units, in order."""
    results = [_result(index) for index in range(ROWS)]
    bounds = [Position(sample=SAMPLES_EACH * number // pieces) for number in range(1, pieces)]
    for unit in units_left(storage, frozenset()).to_pylist():
        for number, (start, following) in enumerate(pairwise([START, *bounds, None])):
            row = piece_row(unit["unit_id"], Place(**unit["place"]), number, start or START, following)
            row |= {"samples": SAMPLES_EACH // pieces, "recordings": [] if following else [_recording()]}
            row["results"] = results[ROWS * number // pieces : ROWS * (number + 1) // pieces]
            yield {name: value for name, value in row.items() if name in PIECE_RECOGNISED.names}


def _recording() -> dict[str, Any]:
    return recording_row(0, DecodedRecording(samples=SAMPLES_EACH, language="de"))


def _result(index: int) -> dict[str, Any]:
    """A row of schemas.RESULT: one of the ROWS segments of a unit."""
    length = SAMPLES_EACH // ROWS
    words = [
        Word(
            text=f"wort{number}",
            confidence=0.9,
            start_ms=number * 400,
            end_ms=number * 400 + 300,
            signals=dict.fromkeys(WORD_SIGNALS.names, 0.5),
        )
        for number in range(WORDS)
    ]
    span = {"recording_index": 0, "segment_index": index, "channel": None, "overlaps_previous": False}
    span |= {"start_sample": index * length, "end_sample": (index + 1) * length}
    text = " ".join(word["text"] for word in words)
    return span | asdict(SegmentResult(text, confidence=0.9, words=words, steps=8, canvas_length=128))
