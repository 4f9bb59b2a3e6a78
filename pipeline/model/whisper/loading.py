"""Starts Whisper: loads a checkpoint and gives it its batches."""

from __future__ import annotations

from pipeline.config import RunConfig
from pipeline.model.batches import BatchEngine
from pipeline.model.number_type import torch_type
from pipeline.model.whisper.recogniser import load
from pipeline.model.worker import Worker


def start(run: RunConfig, device: str) -> Worker:
    """The engine on "cpu" or "cuda", ready for segments. Raises ConfigError. It uses nothing of denoise.*."""
    model = run.model
    dtype = torch_type(model.dtype, device, is_whisper=True)
    return BatchEngine(
        load(model.name, model.revision, device=device, dtype=dtype, decode=run.decode), slots=run.compute.canvases
    )
