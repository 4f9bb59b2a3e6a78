"""torch.compile of the model's calls, the great ones with static shapes, and the count of compilations."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from pipeline.model.denoise.step import Draws, Rows, advance, draw
from pipeline.model.denoise.vocabulary_head import Settle, TileStep, settle_rows, tile_step
from pipeline.model.network import backbone
from pipeline.model.network.backbone import PromptKV
from pipeline.model.recogniser import AsrModel

GRAPHS = 128  # per function: one for every slot bucket, canvas length and tile width; torch's own limit is 8


@dataclass(frozen=True)
class Calls:
    """The model as the engine calls it: compiled or plain, same arguments and results."""

    denoise: Callable[..., Tensor]
    tile_step: TileStep
    settle: Settle
    draw: Callable[..., Draws]
    advance: Callable[..., tuple[Rows, Tensor]]
    prefill: Callable[..., tuple[PromptKV, Tensor]]
    audio_vectors: Callable[[AsrModel, Tensor], Tensor]
    static: bool  # every new shape costs a compilation: callers keep to a few

    @classmethod
    def make(cls, *, compile: bool, cache: str | None = None) -> Calls:
        """cache: folder of compiled code that replicas share, so that a fleet compiles once.

        More shapes than GRAPHS, or code that breaks a graph, raise: torch would go on slowly and say nothing.
        """
        if not compile:
            return cls(
                backbone.denoise, tile_step, settle_rows, draw, advance, backbone.prefill, audio_vectors, static=False
            )
        if cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        # Not through torch._dynamo.config: that holds for the thread that sets it, and the engine has its own.
        options: dict[str, Any] = {"dynamic": False, "fullgraph": True, "recompile_limit": GRAPHS}
        any_number = options | {"dynamic": True}  # of rows: these are small
        return cls(
            torch.compile(backbone.denoise, **options),
            torch.compile(tile_step, **options),
            torch.compile(settle_rows, **any_number),
            torch.compile(draw, **any_number),
            torch.compile(advance, **any_number),
            torch.compile(backbone.prefill, **options),
            torch.compile(audio_vectors, **options),
            static=True,
        )


def audio_vectors(model: AsrModel, mel_BMT: Tensor) -> Tensor:
    """Encoder and projector: audio vectors [batch, slots, hidden] of log-mel windows [batch, mels, frames].

    The spectrogram before it stays plain: inductor has no code for complex numbers.
    """
    audio: Tensor = model.projector(model.encoder.whisper(mel_BMT).last_hidden_state)
    return audio


def compilations() -> int:
    """Graphs that this process has compiled so far; constant in steady state."""
    return int(counters["stats"]["unique_graphs"])


def slot_buckets(slots: int, *, static: bool) -> tuple[int, ...]:
    """Numbers of rows that a step may have, ascending. Static shapes: halves down to one, and three quarters; else any.

    In steady state all slots are full; a smaller bucket serves the end of a job and single requests.
    """
    if not static:
        return tuple(range(1, slots + 1))
    sizes = {1, slots, slots - slots // 4}
    while slots > 1:
        slots = (slots + 1) // 2
        sizes.add(slots)
    return tuple(sorted(sizes))


def prefill_buckets(batch: int, *, static: bool) -> tuple[int, ...]:
    """The same for prompts that are prefilled together. Static shapes: quarters down to one, since the call is rare."""
    if not static:
        return tuple(range(1, batch + 1))
    sizes = {1}
    while batch > 1:
        sizes.add(batch)
        batch //= 4
    return tuple(sorted(sizes))
