"""What listing a distant store costs: single files, all in one folder, or a thousand in each.

Each row is listed in a process of its own. The store is an S3 on this machine, in another process, that waits before
each answer.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from pipeline.benchmark.distant import distant_store
from pipeline.benchmark.planning import peak_rss_mb
from pipeline.config import SourceConfig
from pipeline.sources.formats import list_recordings

DELAY_MS = 50
FOLDER_FILES = 1000
LAYOUTS = ("one folder", "folders of 1000")
SHOWN = ("objects", "layout", "seconds", "cpu_seconds", "requests", "peak_rss_mb")
WIDTHS = {name: max(len(name), len("1,000,000")) for name in SHOWN} | {"layout": len(LAYOUTS[1])}


def measure(objects: int, delay_ms: int = DELAY_MS) -> Iterator[dict[str, Any]]:
    """A row for each of LAYOUTS, as it is measured: seconds by the wall and of the processor, requests, peak_rss_mb.

    Raises RuntimeError if an object is missing or comes twice.
    """
    for layout in LAYOUTS:
        named = partial(keys, objects, layout)
        with distant_store(delay_ms / 1000, made_up=named) as store:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
                row = child.submit(list_here, f"{store.uri}/archive", objects).result()
            requests = store.requests().total()
        yield {"objects": objects, "layout": layout, **row, "requests": requests}


def keys(objects: int, layout: str) -> Iterator[str]:
    """The keys of an archive, in order."""
    for number in range(objects):
        folder = "" if layout == LAYOUTS[0] else f"{number // FOLDER_FILES:06d}/"
        yield f"archive/{folder}{number:09d}.flac"


def list_here(uri: str, objects: int) -> dict[str, Any]:
    """What listing takes in this process. Raises RuntimeError if not all are found."""
    source = SourceConfig(uri=uri, format="files", language="en")
    wall, processor = time.perf_counter(), time.process_time()
    found, last = 0, ""
    for ref in list_recordings(source):
        if ref.recording_id <= last:
            raise RuntimeError(f"{ref.recording_id} comes after {last}")
        found, last = found + 1, ref.recording_id
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    if found != objects:
        raise RuntimeError(f"{objects} objects are there; {found} were listed")
    return {"seconds": round(wall, 2), "cpu_seconds": round(processor, 2), "peak_rss_mb": round(peak_rss_mb())}


def header() -> str:
    """The names over the columns of `line`."""
    return "  ".join(f"{name:>{width}}" for name, width in WIDTHS.items())


def line(row: dict[str, Any]) -> str:
    """A row of `measure` for a terminal."""
    shown = {name: row[name] if isinstance(row[name], str) else f"{row[name]:,}" for name in SHOWN}
    return "  ".join(f"{shown[name]:>{width}}" for name, width in WIDTHS.items())
