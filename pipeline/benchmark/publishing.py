"""What publishing costs: an output whose units are all committed is published, then published again with nothing new.

Each step runs in a process of its own, which does what the driver of a run without Ray does. The commits and their data
are made up and are files of a local output, written without waiting for the disk.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.benchmark.planning import PART_ROWS, SAMPLES_EACH, SECONDS, peak_rss_mb, recordings
from pipeline.config import PlanConfig
from pipeline.output.commit import DATA, FIGURES, commit_key, commit_record, encoded
from pipeline.output.publish import publish_tables
from pipeline.planning.fingerprint import fingerprint_id
from pipeline.planning.pack import mark_duplicates, pack_units, with_parts
from pipeline.planning.plan import BASE, read_plan, write_plan
from pipeline.schemas import TRANSCRIPT, WORD_SIGNALS, WorkUnit, to_table
from pipeline.storage.local import LocalStorage
from pipeline.storage.scratch import scratch_folder

SEGMENTS, WORDS = 8, 30  # of a unit, of a segment
FINGERPRINT = {"model.name": "bench"}
STEPS = ("all", "nothing new")
SHOWN = ("units", "publish", "seconds", "cpu_seconds", "peak_rss_mb")
WIDTHS = {name: max(len(name), len("1,000,000"), len(STEPS[1])) for name in SHOWN}


def measure(units: int) -> Iterator[dict[str, Any]]:
    """A row for each of STEPS, as it is measured: seconds by the wall and of the processor, and peak_rss_mb."""
    with scratch_folder("bench-") as folder:
        _alone(write_output, folder, units)
        for step in STEPS:
            yield {"units": units, "publish": step} | _alone(publish_here, folder, units)


def write_output(folder: Path, units: int) -> None:
    """A planned output in which all units are committed, with SEGMENTS transcripts each."""
    storage = LocalStorage(folder)
    planned = pack_units(mark_duplicates(recordings(units)), PlanConfig(unit_recordings=1))
    write_plan(storage, BASE, with_parts(planned, PART_ROWS), FINGERPRINT)
    template = _transcripts()
    for planned_unit in read_plan(storage):
        _write_unit(storage, planned_unit.unit, template)


def publish_here(folder: Path, units: int) -> dict[str, Any]:
    """What publishing takes in this process. Raises RuntimeError if a unit is missing."""
    wall, processor = time.perf_counter(), time.process_time()
    summary = publish_tables(LocalStorage(folder))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    if not summary["closed"] or summary["segments"] != units * SEGMENTS:
        raise RuntimeError(f"{units} units are committed; published are {summary}")
    return {"seconds": round(wall, 2), "cpu_seconds": round(processor, 2), "peak_rss_mb": round(peak_rss_mb())}


def header() -> str:
    """The names over the columns of `line`."""
    return "  ".join(f"{name:>{width}}" for name, width in WIDTHS.items())


def line(row: dict[str, Any]) -> str:
    """A row of `measure` for a terminal."""
    shown = {name: value if isinstance(value, str) else f"{value:,}" for name, value in row.items()}
    return "  ".join(f"{shown[name]:>{width}}" for name, width in WIDTHS.items())


def _alone(step: Callable[..., Any], folder: Path, units: int) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        return child.submit(step, folder, units).result()


def _write_unit(storage: LocalStorage, unit: WorkUnit, template: pa.Table) -> None:
    columns = {"recording_id": unit.refs[0].recording_id, "unit_id": unit.unit_id}
    for name, value in columns.items():
        index = TRANSCRIPT.get_field_index(name)
        template = template.set_column(index, TRANSCRIPT.field(index), pa.array([value] * SEGMENTS))
    body, key = encoded(template), f"{DATA}{unit.unit_id}-{'0' * 16}.arrow"
    figures = dict.fromkeys(FIGURES, 0) | {"in": SAMPLES_EACH, "transcribed": SAMPLES_EACH}
    commit = commit_record(
        unit.unit_id,
        "0" * 16,
        by_recording={
            **{name: [value] for name, value in figures.items()},
            **{"rows": [SEGMENTS], "reason": [None], "problem": [None]},
        },
        data={
            "transcripts": {
                "key": key,
                "rows": SEGMENTS,
                "bytes": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
            }
        },
        fingerprint=fingerprint_id(FINGERPRINT),
    )
    for name, content in ((key, body), (commit_key(unit.unit_id), json.dumps(commit).encode())):
        path = storage.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _transcripts() -> pa.Table:
    """Transcripts of a unit of SECONDS, without its ids."""
    length = round(SECONDS * 1000 / SEGMENTS)
    rows = []
    for index in range(SEGMENTS):
        words: list[dict[str, Any]] = [
            {"text": f"wort{number}", "confidence": 0.9, "start_ms": number * 400, "end_ms": number * 400 + 300}
            | {"signals": dict.fromkeys(WORD_SIGNALS.names, 0.5)}
            for number in range(WORDS)
        ]
        segment = dict.fromkeys(TRANSCRIPT.names) | {"recording_id": "", "unit_id": "", "model": "bench"}
        segment |= {"segment_index": index, "start_ms": index * length, "end_ms": (index + 1) * length}
        segment |= {"text": " ".join(word["text"] for word in words), "words": words, "confidence": 0.9}
        segment |= {"source_uri": "s3://archive/talks/000000.tar", "confidence_source": "raw", "steps": 8}
        segment |= {"canvas_length": 128, "canvas_fill": 0.5, "overflow": False, "language": "de"}
        rows.append(segment | {"fingerprint": fingerprint_id(FINGERPRINT)})
    return to_table(rows, TRANSCRIPT)
