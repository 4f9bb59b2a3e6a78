"""The whole flow through a local Ray beside the engine alone, on the same segments of a long archive.

- pipeline_rtfx is what `jobs.transcribe` reports: seconds of audio divided by the seconds from the start of the first
  actor to the last commit. Reading, decoding, cutting and committing are included.
- engine_rtfx is the same audio divided by the seconds that the engine alone takes for the same segments, which were
  decoded before.

Each side is a process of its own with the same threads, canvas slots and steps. The engine transcribes one half before
the pipeline and one half after it, so that a machine whose speed changes does so for both. The clock is wall time.
The figures also show which processes used the processor time of the pipeline, and engine_to_replica_processor: the
engine's processor time alone divided by that of the replica, both without their start. That is pipeline_to_engine on a
machine where the replica has a core for itself, in a run so long that the start does not count.

The start takes the same time whatever the archive is: replica_start_processor_seconds. Of 7.1 s, measured on two busy
cores, 1.7 s import Ray and the stages, 5.1 s torch and transformers, 0.3 s load the embedded model. With five minutes
of audio the engine alone took 19.7 s, the replica 27.9 s, 7.3 s of them for its start: 0.957 without it, 0.707 with it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyarrow.parquet as pq

from pipeline.audio.stage import Decoder
from pipeline.config import RunConfig
from pipeline.flow.processes import ProcessorSeconds
from pipeline.model.files import layout
from pipeline.model.stage import start_engine
from pipeline.output.stage import milliseconds
from pipeline.planning.plan import make_plan
from pipeline.run import transcribe
from pipeline.schemas import SAMPLE_RATE, About, Segment, WorkUnit, pcm_of

GOAL = 0.92  # of pipeline_to_engine
PROCESSOR_GOAL = 0.95  # of engine_to_replica_processor
WARM_UP = 4  # segments

T = TypeVar("T")
Span = tuple[str, int, int | None, int, int]  # recording_id, segment_index, channel, start_ms, end_ms


@dataclass(frozen=True, slots=True)
class EngineRun:
    """Seconds of the engine for segments that were decoded before, and its texts."""

    audio_seconds: float  # of whole recordings with their silence, as the pipeline counts
    seconds: float
    processor_seconds: float
    texts: dict[Span, str | None]


def compare(config: RunConfig) -> dict[str, Any]:
    """Measure one archive. `config` is that of the run; its output must not exist yet.

    Raises ValueError if the output exists, and RuntimeError if the two sides did not get the same segments.
    """
    config, _ = layout.resolve(config)
    if Path(config.output.uri).exists():
        raise ValueError(f"{config.output.uri}: exists")
    load = psutil.cpu_percent(interval=1.0) / 100 * (os.cpu_count() or 1)
    with _threads(config.compute.threads_per_replica):
        first = _in_a_process(engine_alone, config, 0)
        with ProcessorSeconds() as used:
            summary = _in_a_process(transcribe, config)
        second = _in_a_process(engine_alone, config, 1)
    audio_seconds = first.audio_seconds + second.audio_seconds
    texts = first.texts | second.texts
    published = transcribed(Path(config.output.uri))
    if abs(audio_seconds - summary["pipeline_audio_seconds"]) > 1e-3:
        raise RuntimeError(f"engine {audio_seconds} s of audio, pipeline {summary['pipeline_audio_seconds']} s")
    if texts.keys() != published.keys():
        raise RuntimeError(f"engine {len(texts)} segments, pipeline {len(published)}: not the same ones")
    seconds = first.seconds + second.seconds
    processor = first.processor_seconds + second.processor_seconds
    engine_rtfx = audio_seconds / seconds
    start = used.to_start("replica")
    return {
        "pipeline_to_engine": round(summary["pipeline_rtfx"] / engine_rtfx, 4),
        "goal": GOAL,
        "pipeline_rtfx": summary["pipeline_rtfx"],
        "engine_rtfx": round(engine_rtfx, 3),
        "pipeline_seconds": summary["pipeline_seconds"],
        "engine_seconds": round(seconds, 3),
        "engine_seconds_before_and_after": [round(run.seconds, 3) for run in (first, second)],
        "engine_processor_seconds": round(processor, 3),
        "pipeline_processor_seconds": used.by_role,
        "replica_start_processor_seconds": start,
        "engine_to_replica_processor": round(processor / (used.by_role["replica"] - start), 4)
        if used.by_role["replica"] > start
        else None,
        "clock": "wall",
        "audio_seconds": round(audio_seconds, 3),
        "recordings": summary["recordings"],
        "segments": len(texts),
        "units": summary["pipeline_units"],
        "texts_equal": round(sum(text == published[span] for span, text in texts.items()) / max(1, len(texts)), 4),
        "model": config.model.name,
        "canvases": config.compute.canvases,
        "threads_per_replica": config.compute.threads_per_replica,
        "replicas": config.compute.replicas_min,
        "decode_actors": config.compute.decoders(config.compute.replicas_max),
        "max_steps": config.denoise.max_steps,
        "cores": os.cpu_count(),
        "cores_busy_before": round(load, 2),
    }


def engine_alone(config: RunConfig, half: int) -> EngineRun:
    """Decode one half of the plan's units (0 or 1), then transcribe their segments with the engine alone."""
    units = list(make_plan(config.source, config.plan))
    middle = (len(units) + 1) // 2
    segments, samples = decoded(config, units[:middle] if half == 0 else units[middle:])
    engine = start_engine(config)
    engine.transcribe(list(segments.values())[:WARM_UP])
    wall, processor = time.monotonic(), time.process_time()
    results = engine.transcribe(list(segments.values()))
    wall, processor = time.monotonic() - wall, time.process_time() - processor
    engine.close()
    texts = {span: result.text for span, result in zip(segments, results, strict=True)}
    return EngineRun(samples / SAMPLE_RATE, wall, processor, texts)


def decoded(config: RunConfig, units: list[WorkUnit]) -> tuple[dict[Span, Segment], int]:
    """The segments that the chain's decoder makes of these units, in its order, and the samples of their recordings."""
    config, info = layout.resolve(config)
    decoder = Decoder(config, About(info.window_seconds, tuple(info.languages), info.name, ""))
    segments: dict[Span, Segment] = {}
    samples = 0
    for unit in units:
        for piece in decoder.pieces(unit):
            samples += sum(recording.samples or 0 for recording in piece.recordings.values())
            pcm = memoryview(piece.pcm)
            for s in piece.segments:
                name = unit.refs[s["recording_index"]].recording_id
                start, end = milliseconds(s["start_sample"]), milliseconds(s["end_sample"])
                span = (name, s["segment_index"], s["channel"], start, end)
                segments[span] = Segment(s["key"], s["language"], pcm_of(pcm, s))
    return segments, samples


def transcribed(output: Path) -> dict[Span, str | None]:
    """The segments of a finished run with their texts, without the rows that only say that a recording is silent."""
    names = ["recording_id", "segment_index", "channel", "start_ms", "end_ms"]
    table = pq.read_table(output / "transcripts", columns=[*names, "text", "steps"])
    rows = table.to_pylist()
    return {tuple(row[name] for name in names): row["text"] for row in rows if row["steps"] is not None}


def table(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [
        f"pipeline: {figures['audio_seconds'] / 60:.0f} min of audio, {figures['recordings']} recordings, "
        f"{figures['segments']} segments, {figures['units']} units; {figures['canvases']} canvases, at most "
        f"{figures['max_steps']} steps, {figures['replicas']} replica(s) of {figures['threads_per_replica']} thread(s) "
        f"and {figures['decode_actors']} to decode, {figures['cores']} cores; seconds are {figures['clock']}",
        "",
        "| what | seconds | rtfx |",
        "| --- | --- | --- |",
        f"| engine alone | {figures['engine_seconds']:.1f} | {figures['engine_rtfx']:.2f} |",
        f"| pipeline through Ray | {figures['pipeline_seconds']:.1f} | {figures['pipeline_rtfx']:.2f} |",
        "",
        f"pipeline_to_engine {figures['pipeline_to_engine']:.3f} (goal {figures['goal']}); by processor time of engine "
        f"and replica {figures['engine_to_replica_processor']} (goal {PROCESSOR_GOAL})",
        f"texts equal {figures['texts_equal']:.1%}",
        f"processor seconds: engine alone {figures['engine_processor_seconds']:.1f}; pipeline "
        + ", ".join(f"{role} {seconds:.1f}" for role, seconds in figures["pipeline_processor_seconds"].items())
        + f"; of the replica {figures['replica_start_processor_seconds']:.1f} before its first bundle",
    ]
    if figures["cores_busy_before"] > 0.2:
        lines.append(
            f"The machine was busy: {figures['cores_busy_before']:.1f} of {figures['cores']} cores were in use before."
        )
    return "\n".join(lines)


def _in_a_process(work: Callable[..., T], *arguments: Any) -> T:
    """The result of `work` in a fresh process."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set the number of threads as Ray does for its workers, in the variable that numeric libraries read."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
