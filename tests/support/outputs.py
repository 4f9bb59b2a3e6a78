"""Builders for tests of the output: references, results of a unit, a whole run without a model."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pyarrow as pa

from pipeline.config import PlanConfig
from pipeline.output.commit import FIGURES, Receipt, commit_unit, committed_units, new_attempt
from pipeline.planning.fingerprint import fingerprint_id
from pipeline.planning.left import read_units_left
from pipeline.planning.pack import mark_duplicates, pack_units, with_parts
from pipeline.planning.plan import BASE, plan_key, write_plan
from pipeline.schemas import DEAD_LETTER, SAMPLE_RATE, TRANSCRIPT, RecordingRef, WorkUnit, to_table
from pipeline.storage.base import Storage

FINGERPRINT = {"model.name": "tiny", "denoise.max_steps": 16}
SECONDS = 4  # length of every recording that is transcribed
UNITS = PlanConfig(unit_recordings=3)


@contextlib.contextmanager
def killable(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """Start a process that runs `target(*arguments, connection)`. Yields it with the other end of the connection."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([target.__module__])  # the imports happen once
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=in_environment, args=(dict(os.environ), target, *arguments, theirs))
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        ours.close()


def in_environment(environment: dict[str, str], target: Callable[..., None], *arguments: Any) -> None:
    """Run `target` with this environment: the fork server has that of its start, without the keys of a store."""
    os.environ.update(environment)
    target(*arguments)


def ref(number: int | str, **changes: Any) -> RecordingRef:
    """A reference to a recording of 4 declared seconds with the id r<number>."""
    values = {
        "source_uri": "/in/a.tar",
        "source_member": f"{number}.flac",
        "offset": 512,
        "size": 1000,
        "version": "v1",
    }
    values |= {"language": "de", "seconds": float(SECONDS), "sidecars": ((".json", 2048, 17), (".txt", 4096, 3))}
    return RecordingRef(f"r{number}", "webdataset", **values | changes)  # type: ignore[arg-type]


def plan(storage: Storage, refs: Iterable[RecordingRef], *, config: PlanConfig = UNITS, part_rows: int = 8) -> str:
    """Write a plan with a fingerprint, unless there is one. Returns the id of the fingerprint."""
    if not storage.exists(plan_key(BASE)):
        write_plan(storage, BASE, with_parts(pack_units(mark_duplicates(refs), config), part_rows), FINGERPRINT)
    return fingerprint_id(FINGERPRINT)


def left(storage: Storage) -> list[WorkUnit]:
    """The units that are not committed."""
    return list(read_units_left(storage, committed_units(storage)))


def results(
    unit: WorkUnit,
    fingerprint: str,
    *,
    dead: Collection[str] = (),
    damaged: Mapping[str, int] | None = None,
    segments: int = 2,
    text: str = "hallo",
) -> tuple[pa.Table, pa.Table, list[dict[str, int]]]:
    """Transcripts, dead letters and figures of a unit, as the pipeline would commit them.

    dead: ids of recordings that fail with model_error. Recordings with a problem fail as well. All others have one
    second of silence. damaged: ids of recordings that are cut, with the seconds that are lost.
    """
    rows, letters, figures = [], [], []
    for item in unit.refs:
        counts = dict.fromkeys(FIGURES, 0) | {"source_bytes": item.size}
        figures.append(counts)
        common = {
            "recording_id": item.recording_id,
            "source_uri": item.source_uri,
            "source_member": item.source_member,
            "language": item.language,
            "reference": item.reference,
            "metadata": item.metadata,
            "unit_id": unit.unit_id,
            "fingerprint": fingerprint,
        }
        if item.problem or item.recording_id in dead:
            seconds = None if item.problem else float(SECONDS)
            letter = {
                "reason": item.problem or "model_error",
                "stage": "model",
                "error": "no answer",
                "seconds": seconds,
            }
            letters.append(common | letter)
            counts["in"] = counts["dead"] = 0 if item.problem else SECONDS * SAMPLE_RATE
            continue
        lost = (damaged or {}).get(item.recording_id, 0)
        counts |= {"in": SECONDS * SAMPLE_RATE, "transcribed": (SECONDS - 1 - lost) * SAMPLE_RATE}
        counts |= {"silence": SAMPLE_RATE, "lost": lost * SAMPLE_RATE}
        for index in reversed(range(segments)):
            segment = dict.fromkeys(TRANSCRIPT.names) | common
            segment |= {"segment_index": index, "start_ms": index * 1000, "end_ms": index * 1000 + 900, "text": text}
            segment |= {"confidence": 0.5, "confidence_source": "raw", "words": [{"text": text, "confidence": 0.5}]}
            segment |= {"steps": 3, "canvas_length": 32, "canvas_fill": 0.5, "overflow": False, "model": "tiny"}
            segment["problem"] = "truncated_audio" if lost else None
            rows.append(segment)
    return to_table(rows, TRANSCRIPT), to_table(letters, DEAD_LETTER), figures


def commit(storage: Storage, unit: WorkUnit, fingerprint: str, **options: Any) -> Receipt:
    """Commit made-up results of a unit."""
    return commit_unit(storage, unit, new_attempt(), *results(unit, fingerprint, **options), fingerprint)


def run(
    storage: Storage, fingerprint: str, *, only: Callable[[int], bool] = lambda _: True, **options: Any
) -> list[Receipt]:
    """Commit every unit that is left to do and whose number `only` accepts. options: of `results`."""
    units = list(enumerate(left(storage)))
    return [commit(storage, unit, fingerprint, **options) for number, unit in units if only(number)]
