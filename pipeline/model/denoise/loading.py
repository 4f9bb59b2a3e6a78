"""Starts the diffusion engine: loads a model of format fullcanvas/1 and gives it its slots."""

from __future__ import annotations

import logging

import torch

from pipeline.config import RunConfig
from pipeline.model import memory
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint
from pipeline.model.number_type import torch_type
from pipeline.model.recogniser import AsrModel
from pipeline.model.worker import Worker

log = logging.getLogger(__name__)


def start(run: RunConfig, device: str) -> Worker:
    """The engine on "cpu" or "cuda", ready for segments. Raises ConfigError. It uses nothing of decode.*."""
    model = run.model
    return Engine(
        _loaded(run, device, torch_type(model.dtype, device)),
        run.denoise,
        slots=run.compute.canvases,
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
