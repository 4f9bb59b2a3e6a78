"""The model's calls as the engine makes them: plain, or through torch.compile, the large ones with static shapes."""

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

GRAPHS = 128  # per function: one for each slot bucket, canvas length and tile width; torch allows 8 by default
STATIC_EIGHTHS = (2, 4, 5, 8)  # of a window. Segments of 13 to 18 s in 30 s take five.


@dataclass(frozen=True)
class Calls:
    """The functions that run the model. Compiled or plain, they take the same arguments and give the same results."""

    denoise: Callable[..., Tensor]
    tile_step: TileStep
    settle: Settle
    draw: Callable[..., Draws]
    advance: Callable[..., tuple[Rows, Tensor]]
    prefill: Callable[..., tuple[PromptKV, Tensor]]
    audio_vectors: Callable[[AsrModel, Tensor], Tensor]
    static: bool  # each new shape costs a compilation, so callers use few shapes

    @classmethod
    def make(cls, *, compile: bool, cache: str | None = None) -> Calls:
        """Plain or compiled calls. cache: folder of compiled code that replicas share, so that only one compiles.

        With more shapes than GRAPHS, or code that breaks a graph, a compiled call raises. By default torch would go on
        slowly without a word.
        """
        if not compile:
            return cls(
                backbone.denoise, tile_step, settle_rows, draw, advance, backbone.prefill, audio_vectors, static=False
            )
        if cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        # Not through torch._dynamo.config: that counts for the thread that sets it, and the engine has its own.
        options: dict[str, Any] = {"dynamic": False, "fullgraph": True, "recompile_limit": GRAPHS}
        any_number = options | {"dynamic": True}  # of rows: these functions are small
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
    """Encoder and projector: from log-mel windows [batch, mels, frames] to audio vectors [batch, slots, hidden].

    The spectrogram is not part of it, because inductor has no code for complex numbers.
    """
    audio: Tensor = model.projector(model.encoder.whisper(mel_BMT).last_hidden_state)
    return audio


def compilations() -> int:
    """How many graphs this process has compiled so far. In steady state the number stays the same."""
    return int(counters["stats"]["unique_graphs"])


def slot_buckets(slots: int, *, static: bool) -> tuple[int, ...]:
    """Numbers of rows that a step may have, ascending. static: slots halved down to one, and three quarters.

    In steady state all slots are full. Smaller steps happen at the end of a job and with single requests.
    """
    if not static:
        return tuple(range(1, slots + 1))
    sizes = {1, slots, slots - slots // 4}
    while slots > 1:
        slots = (slots + 1) // 2
        sizes.add(slots)
    return tuple(sorted(sizes))


def prompt_widths(positions: int, slots: int, canvas: int, *, static: bool) -> tuple[int, ...]:
    """How many prompt positions a step may read, ascending; the last number has room for a whole prompt.

    positions: of a whole prompt. slots: its audio slots. canvas: tokens. static: room for STATIC_EIGHTHS of the audio.
    Prompt and canvas together are a multiple of 8: PyTorch's
    memory-efficient attention gave wrong results with a mask, bfloat16 and a length of 1 mod 32 (its issue 191937).
    """
    text = positions - slots
    audio = {-(-slots * eighths // 8) for eighths in STATIC_EIGHTHS} if static else range(1, slots + 1)
    return tuple(sorted({text + some + -(text + some + canvas) % 8 for some in audio}))


def prefill_buckets(batch: int, *, static: bool) -> tuple[int, ...]:
    """Numbers of prompts that may be prefilled together, ascending. static: the batch quartered down to one."""
    if not static:
        return tuple(range(1, batch + 1))
    sizes = {1}
    while batch > 1:
        sizes.add(batch)
        batch //= 4
    return tuple(sorted(sizes))
