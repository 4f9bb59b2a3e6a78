"""What a unit costs the driver: the chain of a run through a local Ray, its bundles and receipts, without any audio.

Every size runs in a process of its own, which does what the driver of a run does between planning and publishing: it
reads the plan, gives out bundles and adds up receipts. Actors stand in for the stages. They take and return the tables
of the real ones, with the transcripts of ten minutes of speech for each unit, but read, recognise and commit nothing.

`driver_ms_per_unit` is processor time of the driver, with all its threads, from the start of the chain to its end.
`first_receipt_seconds` is wall time, from the start of the chain with Ray running; a replica has no model to load.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from pipeline.benchmark.planning import PART_ROWS, ROWS, SECONDS, peak_rss_mb, recordings
from pipeline.config import ComputeConfig, OutputConfig, PlanConfig, RunConfig, SourceConfig
from pipeline.flow import chain
from pipeline.flow.bundles import as_block, rows_of
from pipeline.flow.cluster import ray_cluster
from pipeline.flow.placement import Placement, watched
from pipeline.output.progress import RunProgress
from pipeline.output.stage import RECEIPT, reading
from pipeline.planning.left import UnitSeconds, units_left
from pipeline.planning.pack import pack_units, with_parts
from pipeline.planning.plan import BASE, write_plan
from pipeline.schemas import (
    AUDIO_COLUMNS,
    PIECE_DECODED,
    PIECE_RECOGNISED,
    SAMPLE_RATE,
    START,
    WORD_SIGNALS,
    About,
    DecodedRecording,
    Place,
    SegmentResult,
    Word,
    piece_row,
    to_table,
)
from pipeline.storage.local import LocalStorage
from pipeline.storage.scratch import scratch_folder

SIZES = (10_000, 50_000)  # units of ten minutes
MS_PER_UNIT, PEAK_MB, FIRST_SECONDS = 4.0, 1_000, 15.0  # the bounds of a driver
SAMPLES = round(SECONDS * SAMPLE_RATE)
PCM = bytes(200_000)  # of a unit: enough for Ray to keep a block outside of the driver, as it does with real audio
WORDS = 30  # of a segment
SHOWN = ("units", "seconds", "driver_ms_per_unit", "first_receipt_seconds", "peak_rss_mb")


class Decoder:
    """Stands in for GuardedDecoder: each unit is one piece."""

    def __init__(self, _config: RunConfig, _about: About) -> None:
        pass

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        recording = asdict(DecodedRecording(samples=SAMPLES)) | {"recording_index": 0}
        recording = {name: value for name, value in recording.items() if name not in ("damage", "lost_samples")}
        rows = [
            piece_row(unit["unit_id"], Place(**unit["place"]), 0, START, None)
            | {"recordings": [recording], "samples": SAMPLES, "pcm": PCM}
            for unit in rows_of(block).to_pylist()
        ]
        yield as_block(to_table(rows, PIECE_DECODED))


class Replica:
    """Stands in for GuardedReplica: every unit has the same transcript."""

    def __init__(self, _config: RunConfig, _about: About) -> None:
        signals: dict[str, float | None] = dict.fromkeys(WORD_SIGNALS.names, 0.5)
        word: Word = {"text": "word", "confidence": 0.5, "start_ms": 0, "end_ms": 400, "signals": signals}
        words = [word] * WORDS
        answer = asdict(SegmentResult("word " * WORDS, 0.5, words))
        span = {"recording_index": 0, "channel": None, "overlaps_previous": False, "start_sample": 0, "end_sample": 1}
        self.results = pa.array(
            [[span | answer | {"segment_index": index} for index in range(ROWS)]],
            PIECE_RECOGNISED.field("results").type,
        )

    async def __call__(self, block: pa.Table) -> pa.Table:
        pieces = rows_of(block)
        results = pa.concat_arrays([self.results] * len(pieces))
        return as_block(pieces.drop_columns(AUDIO_COLUMNS).append_column("results", results))


class Commit:
    """Stands in for MeteredCommit: nothing is written."""

    def __init__(self, _config: RunConfig, _about: About) -> None:
        pass

    def __call__(self, block: pa.Table) -> pa.Table:
        counts: dict[str, Any] = {
            "suspect": False,
            "done": True,
            "won": True,
            "recordings": 1,
            "segments": ROWS,
            "dead": 0,
        }
        counts |= {"failed": [], "outcome": None, "commit_seconds": None}
        rows = [
            {"unit_id": row["unit_id"], "place": row["place"], "samples": row["samples"], **counts, **reading([None])}
            for row in rows_of(block).to_pylist()
        ]
        return as_block(to_table(rows, RECEIPT))


def measure(sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row for each number of units."""
    for units in sizes:
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool.submit(drive, units).result()


def drive(units: int) -> dict[str, Any]:
    """Plan `units` units and drive all of them through the chain. Raises RuntimeError unless each comes back once."""
    with scratch_folder("flow-") as folder:
        config = _config(folder)
        storage = LocalStorage(Path(config.output.uri))
        write_plan(storage, BASE, with_parts(pack_units(recordings(units), PlanConfig()), PART_ROWS))
        left, lengths = units_left(storage, frozenset()), UnitSeconds(storage)
        seconds = lengths.of(left["unit_id"].to_pylist())
        progress = RunProgress()
        stages: dict[str, Any] = {"GuardedDecoder": Decoder, "GuardedReplica": Replica, "MeteredCommit": Commit}
        with ray_cluster(config.compute), mock.patch.multiple(chain, **stages), progress:
            progress.begin(len(left), 0, lengths.of, sum(seconds))
            placement = Placement(config.compute)
            wall, cpu, first = time.perf_counter(), time.process_time(), 0.0
            seen = set()
            about = About(30.0, ("en",), "none", "0")
            for receipt in watched(chain.run_units(config, about, left, seconds), placement.during):
                first = first or time.perf_counter() - wall
                progress.add(receipt)
                seen.add(receipt["unit_id"])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if len(seen) != units or progress.done != units:
            raise RuntimeError(f"{units} units went in, {progress.done} receipts of {len(seen)} units came out")
    return {
        "units": units,
        "seconds": round(wall, 1),
        "driver_ms_per_unit": round(cpu / units * 1000, 3),
        "first_receipt_seconds": round(first, 1),
        "peak_rss_mb": round(peak_rss_mb()),
    }


def header() -> str:
    """The names over the columns of `line`."""
    return "  ".join(SHOWN)


def line(row: dict[str, Any]) -> str:
    """A row of `measure` for a terminal."""
    return "  ".join(f"{row[name]:{len(name)},}" for name in SHOWN)


def verdict(row: dict[str, Any]) -> str:
    """Whether the driver stayed within its bounds, in one line."""
    bounds = {"driver_ms_per_unit": MS_PER_UNIT, "first_receipt_seconds": FIRST_SECONDS, "peak_rss_mb": PEAK_MB}
    above = [f"{name} {row[name]:,} is ABOVE {bound:,}" for name, bound in bounds.items() if row[name] > bound]
    return f"{row['units']:,} units: {'; '.join(above) or 'the driver is within its bounds'}"


def _config(folder: Path) -> RunConfig:
    return RunConfig(
        source=SourceConfig(uri=str(folder)),
        output=OutputConfig(uri=str(folder / "out")),
        compute=ComputeConfig(),
    )
