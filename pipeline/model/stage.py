"""The model stage: pieces with segments go in, pieces with results come out; calls in flight share one engine."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, NoReturn

import pyarrow as pa
import torch

from pipeline.config import ConfigError, RunConfig
from pipeline.model import memory
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint, layout, whisper_layout
from pipeline.model.recogniser import AsrModel
from pipeline.model.whisper import recogniser as whisper
from pipeline.model.whisper.engine import WhisperEngine
from pipeline.model.worker import EngineDead, Worker
from pipeline.schemas import PIECE_RECOGNISED, SPAN, About, Segment, SegmentResult, pcm_of

log = logging.getLogger(__name__)

HUNG_SECONDS = 900.0  # without the end of a turn: longer than compiling again when memory runs out


class Replica:
    """Loads the model in `__init__` (a broken one fails the job); `await replica(table)` recognises its segments."""

    def __init__(self, config: RunConfig, _about: About) -> None:
        """Raises ConfigError where the model cannot be loaded."""
        # A process of Ray shows warnings only: what the model needs and how it runs belongs in the replica's log.
        logging.basicConfig(format="%(message)s")
        logging.getLogger("pipeline").setLevel(logging.INFO)
        self.engine = start_engine(config)

    async def __call__(self, pieces: pa.Table) -> pa.Table:
        """Rows of PIECE_DECODED become rows of PIECE_RECOGNISED.

        An engine that is dead or hangs ends the process with status 1. Ray then replaces the replica and gives its
        pieces to another.
        """
        rows: list[list[dict[str, Any]]] = pieces["segments"].to_pylist()
        audio = [memoryview(pcm.as_buffer()) for pcm in pieces["pcm"]]
        try:
            waiting = [
                self.engine.submit_all([Segment(s["key"], s["language"], pcm_of(pcm, s)) for s in segments])
                for segments, pcm in zip(rows, audio, strict=True)
            ]
            await self._resolved([future for futures in waiting for future in futures])
            answers = [[future.result() for future in futures] for futures in waiting]
        except EngineDead as err:
            _end(str(err))
        results = [
            [_result(segment, answer) for segment, answer in zip(segments, answered, strict=True)]
            for segments, answered in zip(rows, answers, strict=True)
        ]
        column = pa.array(results, PIECE_RECOGNISED.field("results").type)
        return pieces.drop_columns(["segments", "pcm"]).append_column("results", column)

    async def _resolved(self, futures: list[Future[SegmentResult]]) -> None:
        """Wait for all; the process ends where the engine hangs."""
        waiting = {asyncio.wrap_future(future) for future in futures}
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=HUNG_SECONDS / 60)
            if waiting and self.engine.stalled_seconds() > HUNG_SECONDS:
                _end(f"the engine hangs: no turn has ended for {HUNG_SECONDS:g} s")


def start_engine(config: RunConfig) -> Worker:
    """The engine of the configured model on the configured device, ready for segments. Raises ConfigError."""
    device = config.model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device: cuda: torch finds no CUDA device on the machine of this replica")
    if device == "cpu":
        torch.set_num_threads(config.compute.threads_per_replica)
    return engine_for(config, device)


def engine_for(run: RunConfig, device: str) -> Worker:
    """The engine for the kind of model that `model.name` is, on "cpu" or "cuda". Raises ConfigError.

    Its batch is compute.canvases. A Whisper checkpoint uses none of denoise.*, model.compile and model.head.
    """
    model, slots = run.model, run.compute.canvases
    dtype = getattr(torch, model.dtype)
    if whisper_layout.is_whisper(layout.directory(model.name, model.revision)):
        if model.weights == "fp8":
            raise ConfigError(f"model.weights: fp8 is for diffusion models; {model.name} is a Whisper checkpoint")
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
    """The loaded model, its LoRA merged.

    Raises ConfigError before anything is allocated where GPU memory will not be enough.
    """
    slots = run.compute.canvases

    def check(model: AsrModel) -> None:
        needed = memory.estimate(model, run.denoise, slots=slots, dtype=dtype)
        log.info("model needs %s", needed)
        if device == "cuda":
            memory.require(needed, torch.cuda.mem_get_info()[0], slots=slots)

    model = run.model
    return checkpoint.load(
        model.name,
        model.revision,
        device=device,
        dtype=dtype,
        fp8=model.weights == "fp8",
        verify=model.verify,
        merge=True,
        check=check,
    )


def _end(why: str) -> NoReturn:
    """End the process with status 1, at once."""
    log.critical("replica ends: %s", why)
    logging.shutdown()
    os._exit(1)


def _result(segment: dict[str, Any], answer: SegmentResult) -> dict[str, Any]:
    return {name: segment[name] for name, _ in SPAN} | asdict(answer)
