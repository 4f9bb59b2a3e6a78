"""The timed probe: decodes and transcribes a random sample of what is left, with the real stages, in this process."""

from __future__ import annotations

import json
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Set
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from typing import Any

import torch

from pipeline.audio.declared import header_of
from pipeline.audio.stage import Decoder
from pipeline.config import RunConfig
from pipeline.forecast.forecast import SEED, Forecast, Kind, Measured, estimate_run, kind_of
from pipeline.forecast.sample import draw
from pipeline.model.files import layout
from pipeline.model.stage import start_engine
from pipeline.output.run_facts import FORECAST
from pipeline.planning.left import read_units_left
from pipeline.schemas import (
    SAMPLE_RATE,
    About,
    BadRecording,
    DecodedRecording,
    RecordingRef,
    Segment,
    WorkUnit,
    pcm_of,
)
from pipeline.sources.formats import read_recording
from pipeline.storage.base import Storage

SEGMENTS_EACH = 8  # at most so many of one recording are transcribed: they stay in memory
ROUNDS = 2  # the model gets so many segments for each of its slots; where there are fewer, some of them again
WARM_UP = 2  # segments that are transcribed before the clock starts

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Sampled:
    """One recording of the sample, decoded to its end or until its time was up."""

    ref: RecordingRef
    seconds: float = 0.0  # of audio that was decoded
    decode_seconds: float = 0.0  # that decoding took
    speech_seconds: float = 0.0  # in segments for the model
    segments: list[dict[str, Any]] = field(default_factory=list)  # a random sample of them
    problem: str | None = None  # reason of a dead letter
    length: float = 0.0  # seconds of the whole recording as the accounting will count them; -1: unknown


def make_forecast(config: RunConfig, storage: Storage, committed: Set[str]) -> Forecast:
    """Forecast what the plan of `storage` has left beside the `committed` units; kept as _run/forecast.json.

    A sample of plan.probe_recordings is decoded and transcribed in this process, without Ray. Raises ConfigError where
    the model cannot be loaded.
    """
    sample = draw(read_units_left(storage, committed), config.plan.probe_recordings)
    measured, notes = measure_sample(config, sample.refs, sample.times) if sample.refs else ([], [])
    if sample.units and not config.plan.probe_recordings:
        notes.append("plan.probe_recordings=0: nothing was measured, so only declared lengths are known, and no speed")
    made = estimate_run(
        sample.totals,
        measured,
        units=sample.units,
        compute=config.compute,
        usd_per_gpu_hour=config.plan.usd_per_gpu_hour,
    )
    made = replace(made, notes=[*notes, *made.notes])
    storage.put(FORECAST, json.dumps(asdict(made), indent=1).encode())
    return made


def measure_sample(
    config: RunConfig, refs: list[RecordingRef], times: Mapping[str, int] | None = None
) -> tuple[list[Measured], list[str]]:
    """Decode and transcribe `refs` in their order, as many as plan.probe_seconds allow. Returns figures and notes.

    times: how often each was drawn, by its id, as in `Sample`.

    Half of the time is for decoding, half for the model. No figure includes loading the model or its first segments.
    """
    log.info("forecast: up to %d recordings are decoded and transcribed", len(refs))
    config, info = layout.resolve(config)
    decoder = Decoder(config, About(info.window_seconds, tuple(info.languages), info.name, ""))
    sampled = list(decoded(config, decoder, refs, config.plan.probe_seconds / 2))
    notes = list(_remarks(sampled, len(refs)))
    sampled = [item for item in sampled if item.length >= 0]
    if config.model.second is not None:
        notes.append(f"the time of model.second={config.model.second} is not measured")
    missing = _missing_device(config)
    if missing:
        notes.append(missing)
        return [extrapolated(item, None, times) for item in sampled], notes
    rates = _transcribed(config, sampled, config.plan.probe_seconds / 2)
    return [extrapolated(item, rate, times) for item, rate in zip(sampled, rates, strict=True)], notes


def pieces_of(
    decoder: Decoder, ref: RecordingRef
) -> Iterator[tuple[int, list[dict[str, Any]], DecodedRecording | None]]:
    """Samples and segments of every piece of one recording; with the last one, what the decoder says of the whole.

    Each segment has its samples as `pcm`.
    """
    for piece in decoder.pieces(WorkUnit("probe", (ref,))):
        pcm = memoryview(piece.pcm)
        segments = [segment | {"pcm": bytes(pcm_of(pcm, segment))} for segment in piece.segments]
        yield piece.samples, segments, piece.recordings.get(0)


def declared_by_header(ref: RecordingRef, *, split: bool) -> float | None:
    """Seconds of audio as the file's header states them, None where it does not.

    split: whether every channel is transcribed by itself; then the seconds of all channels are added.
    """
    try:
        header = header_of(read_recording(ref), ref.recording_id)
    except BadRecording:
        return None
    if header.seconds is None:
        return None
    channels = header.channels if split and ref.channel is None else 1
    end = header.seconds if ref.end_ms is None else min(header.seconds, ref.end_ms / 1000)
    return max(0.0, end - (ref.start_ms or 0) / 1000) * float(channels)


def decoded(config: RunConfig, decoder: Decoder, refs: list[RecordingRef], seconds: float) -> Iterator[Sampled]:
    """Decode the sample within about `seconds`.

    Every recording gets an equal share of the time that is left. At least one piece of the first recording of each kind
    is decoded, even when the time is up.
    """
    deadline = time.perf_counter() + seconds
    kinds: set[Kind] = set()
    dice = random.Random(SEED)
    for number, ref in enumerate(refs):
        now = time.perf_counter()
        kind = kind_of(ref)[0]
        if kind in kinds and now > deadline:
            return
        kinds.add(kind)
        item, whole = Sampled(ref), None
        seen = 0
        for samples, segments, known in pieces_of(decoder, ref):
            item.decode_seconds = time.perf_counter() - now
            item.seconds += samples / SAMPLE_RATE
            whole = known
            for segment in segments:
                seen += 1
                item.speech_seconds += (segment["end_sample"] - segment["start_sample"]) / SAMPLE_RATE
                if len(item.segments) < SEGMENTS_EACH:
                    item.segments.append(segment)
                elif (place := int(dice.random() * seen)) < SEGMENTS_EACH:
                    item.segments[place] = segment
            if whole is None and item.decode_seconds > (deadline - now) / (len(refs) - number):
                break
        item.length = _length(item, whole, split=config.source.channels == "split")
        yield item


def _length(item: Sampled, whole: DecodedRecording | None, *, split: bool) -> float:
    """Seconds of the whole recording, 0 for a dead letter; -1 where only a part was decoded and no header says more."""
    if whole is not None:
        item.problem = whole.problem.reason if whole.problem else None
        return 0.0 if item.problem else (whole.samples or 0) / SAMPLE_RATE
    kind, extent = kind_of(item.ref)
    declared = extent if kind == "seconds" else declared_by_header(item.ref, split=split)
    return -1.0 if declared is None else max(declared, item.seconds)


def _remarks(sampled: list[Sampled], wanted: int) -> Iterator[str]:
    if len(sampled) < wanted:
        yield f"plan.probe_seconds: time for {len(sampled)} of {wanted} recordings"
    if dead := Counter(item.problem for item in sampled if item.problem):
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dead.items()))
        yield f"{dead.total()} of {len(sampled)} sampled recordings are dead letters ({reasons})"
    if unknown := sum(item.length < 0 for item in sampled):
        yield f"{unknown} sampled recordings are too long to be decoded whole and declare no length: left out"
    declared = [item for item in sampled if kind_of(item.ref)[0] == "seconds" and item.length > 0]
    if declared:
        factor = sum(item.length for item in declared) / sum(kind_of(item.ref)[1] for item in declared)
        if abs(factor - 1) > 0.02:
            yield f"declared seconds are summed as they are; the sampled recordings last {factor:.2f} times as long"


def _missing_device(config: RunConfig) -> str | None:
    if (config.compute.gpus_per_replica or config.model.device == "cuda") and not torch.cuda.is_available():
        return "no speed of the model: the replicas need GPUs, and this machine has none"
    return None


def _transcribed(config: RunConfig, sampled: list[Sampled], seconds: float) -> list[float]:
    """For each recording, the seconds that one replica needs for a second of speech.

    The measured time is divided among the segments by their denoising steps times canvas positions, or by their length
    where the engine has neither. It includes filling and draining the slots. So with few segments on a GPU the figure
    is somewhat slower than a long run.
    """
    segments = [(number, segment) for number, item in enumerate(sampled) for segment in item.segments]
    if not segments:
        return [0.0] * len(sampled)
    random.Random(SEED).shuffle(segments)
    if not config.compute.gpus_per_replica and config.model.device == "auto":  # Ray hides the GPUs from such a replica
        config = config.model_copy(update={"model": config.model.model_copy(update={"device": "cpu"})})
    engine = start_engine(config)
    slots = config.compute.canvases
    speech, work = [0.0] * len(sampled), [0.0] * len(sampled)
    try:
        engine.transcribe([_segment(segment) for _, segment in segments[:WARM_UP]])
        started = time.perf_counter()
        waiting: deque[tuple[int, dict[str, Any], Future[Any]]] = deque()

        def collect() -> None:
            number, segment, future = waiting.popleft()
            result = future.result()
            speech[number] += (segment["end_sample"] - segment["start_sample"]) / SAMPLE_RATE
            work[number] += (result.steps or 1) * (result.canvas_length or len(segment["pcm"]))

        for fed, (number, segment) in enumerate(cycle(segments)):
            late = fed > 0 and time.perf_counter() - started > seconds
            if late or fed >= max(len(segments), ROUNDS * slots):
                break
            waiting.append((number, segment, engine.submit(_segment(segment))))
            if len(waiting) >= 2 * slots:
                collect()
        while waiting:
            collect()
        elapsed = time.perf_counter() - started
    finally:
        engine.close()
    overall = elapsed / sum(speech)
    return [elapsed * of / sum(work) / second if second else overall for second, of in zip(speech, work, strict=True)]


def _segment(segment: dict[str, Any]) -> Segment:
    return Segment(segment["key"], segment["language"], segment["pcm"])


def extrapolated(item: Sampled, rate: float | None, times: Mapping[str, int] | None = None) -> Measured:
    """The figures of the whole recording: in proportion, where only a part was decoded.

    rate: seconds of a replica for a second of speech; None: unknown. times: as in `measure_sample`.
    """
    kind, extent = kind_of(item.ref)
    whole = item.length / item.seconds if item.seconds and item.length > item.seconds else 1.0
    replica = None if rate is None else rate * item.speech_seconds * whole
    drawn = (times or {}).get(item.ref.recording_id)
    return Measured(kind, extent, item.length, item.decode_seconds * whole, replica, drawn)
