"""A model replica as a Ray Data stage sees it: units in, units out, several calls in flight share one engine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, NoReturn

import pyarrow as pa
import torch

from pipeline import schemas
from pipeline.config import ConfigError, RunConfig
from pipeline.model import device_map, memory
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint, layout, whisper_layout
from pipeline.model.recogniser import AsrModel
from pipeline.model.whisper import recogniser as whisper
from pipeline.model.whisper.engine import WhisperEngine
from pipeline.model.worker import EngineDead, Worker
from pipeline.schemas import Segment, SegmentResult

log = logging.getLogger(__name__)

HUNG_SECONDS = 900.0  # without the end of a turn: longer than compiling again when memory runs out


class Replica:
    """Loads the model in `__init__` (a broken one fails the job); `await replica(table)` transcribes its segments."""

    def __init__(self, config: dict[str, Any]) -> None:
        # A process of Ray shows warnings only: what the model needs and how it runs belongs in the replica's log.
        logging.basicConfig(format="%(message)s")
        logging.getLogger("pipeline").setLevel(logging.INFO)
        run = RunConfig.model_validate(config)
        device = run.model.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("model.device: cuda: torch finds no CUDA device on the machine of this replica")
        if device == "cpu":
            torch.set_num_threads(run.compute.threads_per_replica)
        self.engine = engine_for(run, device)

    async def __call__(self, units: pa.Table) -> pa.Table:
        """Column `segments` of `units` becomes `results`; the other columns pass through.

        An engine that is dead or hangs ends the process with status 1, so that Ray replaces the replica and gives its
        units to another.
        """
        rows: list[list[dict[str, Any]]] = units["segments"].to_pylist()
        try:
            waiting = [
                self.engine.submit_all([Segment(s["key"], s["language"], s["pcm"]) for s in segments])
                for segments in rows
            ]
            await self._resolved([future for futures in waiting for future in futures])
            answers = [[future.result() for future in futures] for futures in waiting]
        except EngineDead as err:
            _end(str(err))
        results = [
            [_result(segment, answer) for segment, answer in zip(segments, answered, strict=True)]
            for segments, answered in zip(rows, answers, strict=True)
        ]
        index = units.schema.get_field_index("segments")
        column = pa.array(results, schemas.UNIT_TRANSCRIBED.field("results").type)
        return units.set_column(index, "results", column)

    async def _resolved(self, futures: list[Future[SegmentResult]]) -> None:
        """Wait for all; the process ends where the engine hangs."""
        waiting = {asyncio.wrap_future(future) for future in futures}
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=HUNG_SECONDS / 60)
            if waiting and self.engine.stalled_seconds() > HUNG_SECONDS:
                _end(f"the engine hangs: no turn has ended for {HUNG_SECONDS:g} s")


def engine_for(run: RunConfig, device: str) -> Worker:
    """The engine of whichever model `model.name` is, loaded on "cpu" or "cuda". Raises ConfigError.

    compute.canvases is its batch. Of a Whisper checkpoint, denoise.*, model.compile and model.head decide nothing.
    """
    model, slots = run.model, run.compute.canvases
    dtype = getattr(torch, model.dtype)
    if whisper_layout.is_whisper(layout.directory(model.name, model.revision)):
        return WhisperEngine(whisper.load(model.name, model.revision, device=device, dtype=dtype), slots=slots)
    return Engine(
        _loaded(run, device, dtype),
        run.denoise,
        slots=slots,
        compile=model.compile,
        compile_cache=model.compile_cache,
        head=model.head,
    )


def _loaded(run: RunConfig, device: str, dtype: torch.dtype) -> AsrModel:
    """The model in place. Raises ConfigError, before anything is allocated, where GPU memory will not suffice."""
    slots = run.compute.canvases

    def plan(model: AsrModel) -> Sequence[int] | None:
        needed = memory.estimate(model, run.denoise, slots=slots, dtype=dtype)
        log.info("model needs %s", needed)
        if device != "cuda":
            return None
        free = [torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]
        if run.model.device_map == "single" or len(free) == 1:
            memory.require(needed, free[torch.cuda.current_device()], slots=slots)
            return None
        found = device_map.split(model, needed, free, dtype)
        log.info("model.device_map: %s", found)
        return found.layers

    model = run.model
    return checkpoint.load(
        model.name,
        model.revision,
        device=device,
        dtype=dtype,
        quantization=model.quantization,
        verify=model.verify,
        plan=plan,
    )


def _end(why: str) -> NoReturn:
    log.critical("replica ends: %s", why)
    logging.shutdown()
    os._exit(1)


def _result(segment: dict[str, Any], answer: SegmentResult) -> dict[str, Any]:
    return {name: segment[name] for name, _ in schemas.SPAN} | asdict(answer)
