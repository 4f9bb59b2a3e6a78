"""Metrics of the chain. Prometheus reads them from Ray's `--metrics-export-port` as `ray_<name>`, about 10 s later.

A counter is `ray_<name>_total` there, a histogram `ray_<name>_bucket`, `_sum` and `_count`. docs/monitoring.md has a
line for each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from ray.util import metrics

from pipeline.schemas import SAMPLE_RATE
from pipeline.storage.patience import drain, drain_seconds

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]  # bounds of latencies
STEPS = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0, 256.0]  # bounds of denoising steps
REPORT_SECONDS = 5.0  # between two looks at a replica


class Metric(NamedTuple):
    """A metric of the chain. kind: counter, gauge or histogram. bounds: of the buckets of a histogram."""

    kind: str
    about: str
    tags: tuple[str, ...] = ()
    bounds: list[float] = []  # noqa: RUF012 it is never changed


METRICS = {
    "store_requests": Metric("counter", "requests to object stores that were answered", ("stage",)),
    "store_retries": Metric("counter", "requests to object stores that were repeated", ("stage", "error")),
    "store_seconds": Metric("histogram", "from a request to its answer, repetitions included", ("stage",), SECONDS),
    "decoded_audio_seconds": Metric("counter", "audio that came out of the decoders"),
    "decode_busy_seconds": Metric("counter", "time in which decoders read and decoded"),
    "recognised_audio_seconds": Metric("counter", "audio of the pieces that models have recognised", ("stage",)),
    "replica_busy_seconds": Metric("counter", "time in which a replica had a piece", ("stage",)),
    "replica_waiting_seconds": Metric("counter", "time in which a replica had nothing to do", ("stage",)),
    "replica_queue": Metric("gauge", "pieces that wait in front of an engine", ("stage",)),
    "segments_in_engine": Metric("gauge", "segments that an engine has, in slots or waiting for one", ("stage",)),
    "slots": Metric("gauge", "canvas slots of an engine", ("stage",)),
    "slots_busy": Metric("gauge", "canvas slots that have a segment", ("stage",)),
    "row_steps": Metric("counter", "denoising steps of rows: needed by a segment, or computed", ("stage", "kind")),
    "steps": Metric("histogram", "denoising steps (Whisper: tokens) of a segment", ("stage",), STEPS),
    "overflows": Metric("counter", "segments whose text fills the longest canvas", ("stage",)),
    "gpu_memory_bytes": Metric("gauge", "GPU memory that torch has reserved for a replica", ("stage",)),
    "units": Metric("counter", "units: committed, lost_race (another run committed it), suspect", ("state",)),
    "units_left": Metric("gauge", "units that the run still has to do"),
    "recordings": Metric("counter", "recordings by what became of them", ("state", "reason")),
    "committed_audio_seconds": Metric("counter", "audio of committed units by what became of it", ("state",)),
    "commit_seconds": Metric("histogram", "time of one commit: data files, then the conditional put", (), SECONDS),
}


def make(name: str, **tags: str) -> Any:
    """One of METRICS, in this process. tags: those that never change here."""
    wanted, full = METRICS[name], f"fullcanvas_{name}"
    made: Any
    if wanted.kind == "histogram":
        made = metrics.Histogram(full, wanted.about, boundaries=wanted.bounds, tag_keys=wanted.tags)
    else:
        kind = metrics.Counter if wanted.kind == "counter" else metrics.Gauge
        made = kind(full, wanted.about, tag_keys=wanted.tags)
    made.set_default_tags(tags)
    return made


class StoreMetrics:
    """The requests to stores of this process."""

    def __init__(self, stage: str) -> None:
        """stage: decode, model, second or commit."""
        self._retries, self._requests, self._seconds = (
            make(name, stage=stage) for name in ("store_retries", "store_requests", "store_seconds")
        )

    def report(self) -> None:
        """Add what was counted since the last call to the metrics."""
        for error, count in drain().items():
            self._retries.inc(count, {"error": error})
        for seconds in drain_seconds():
            self._requests.inc()
            self._seconds.observe(seconds)


class DecodeMetrics(StoreMetrics):
    """What a decoder does."""

    def __init__(self) -> None:
        super().__init__("decode")
        self._audio, self._busy = make("decoded_audio_seconds"), make("decode_busy_seconds")

    def piece(self, samples: int, seconds: float) -> None:
        """Count a piece that took so long."""
        _add(self._audio, samples / SAMPLE_RATE)
        _add(self._busy, seconds)


class ReplicaMetrics(StoreMetrics):
    """What a replica does. It looks at the engine after each block, and in a thread of its own every few seconds."""

    def __init__(self, stage: str, figures: Callable[[], Mapping[str, float]]) -> None:
        """figures: of the engine, by name: those of METRICS, and row_steps_needed and row_steps_computed."""
        super().__init__(stage)
        names = ("recognised_audio_seconds", "replica_busy_seconds", "replica_waiting_seconds", "replica_queue")
        more = ("segments_in_engine", "slots", "slots_busy", "row_steps", "steps", "overflows", "gpu_memory_bytes")
        self._metrics = {name: make(name, stage=stage) for name in (*names, *more)}
        self._figures = figures
        self._row_steps = {"needed": 0.0, "computed": 0.0}
        self._inside = self._arrived = 0  # pieces
        self._since = time.monotonic()
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True, name="metrics").start()

    def arrived(self, pieces: int) -> None:
        """Pieces came to the replica; with a negative number they left it."""
        self._arrived += pieces

    def inside(self, pieces: int) -> None:
        """Pieces went into the engine; with a negative number they left it."""
        with self._lock:
            self._clock()
            self._inside += pieces

    def recognised(self, piece: pa.Table) -> None:
        """Count the results of pieces."""
        _add(self._metrics["recognised_audio_seconds"], (pc.sum(piece["samples"]).as_py() or 0) / SAMPLE_RATE)
        for results in piece["results"].to_pylist():
            for result in results:
                if result["steps"] is not None:
                    self._metrics["steps"].observe(result["steps"])
                if result["overflow"]:
                    self._metrics["overflows"].inc()

    def look(self) -> None:
        """Bring gauges and times up to now."""
        with self._lock:
            self._clock()
            figures = dict(self._figures())
            for kind, before in self._row_steps.items():
                now = figures.pop(f"row_steps_{kind}", 0.0)
                if now > before:
                    self._metrics["row_steps"].inc(now - before, {"kind": kind})
                self._row_steps[kind] = now
        for name, value in (figures | {"replica_queue": self._arrived - self._inside}).items():
            self._metrics[name].set(value)
        self.report()

    def _clock(self) -> None:
        now = time.monotonic()
        _add(self._metrics["replica_busy_seconds" if self._inside else "replica_waiting_seconds"], now - self._since)
        self._since = now

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(REPORT_SECONDS)


class CommitMetrics(StoreMetrics):
    """What is committed, from rows of RECEIPT (output/stage.py)."""

    def __init__(self) -> None:
        super().__init__("commit")
        names = ("units", "recordings", "committed_audio_seconds", "commit_seconds")
        self._units, self._recordings, self._audio, self._seconds = map(make, names)

    def receipt(self, row: Mapping[str, Any]) -> None:
        """Count a unit. A piece of one counts nothing."""
        if row["suspect"]:
            self._units.inc(tags={"state": "suspect"})
        if not row["done"]:
            return
        self._units.inc(tags={"state": "committed" if row["won"] else "lost_race"})
        self._seconds.observe(row["commit_seconds"])
        if not row["won"]:
            return
        for failed in row["failed"]:
            self._recordings.inc(tags={"state": "dead" if failed["dead"] else "damaged", "reason": failed["reason"]})
        if whole := row["recordings"] - len(row["failed"]):
            self._recordings.inc(whole, {"state": "transcribed", "reason": ""})
        for state, samples in row["outcome"].items():
            if state != "in" and samples:
                self._audio.inc(samples / SAMPLE_RATE, {"state": state})


def _add(counter: Any, value: float) -> None:
    """Counters take no zero."""
    if value > 0:
        counter.inc(value)
