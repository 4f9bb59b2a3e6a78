"""The small parts of a denoising step: random draws before the model's pass, bookkeeping of rows after the head.

Both are pure functions of many small operations. Compiled, each is one graph for any number of rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise, sampler

EARLY_STEP = 2  # the first step that sees a canvas which the model itself has written


class Draws(NamedTuple):
    """The random numbers of one step over B rows of C positions, and the temperature."""

    temperature: Tensor  # float32 [B * C]
    sample_keys: Tensor  # int32 [B * C, 2], for the vocabulary head
    tokens: Tensor  # int64 [B, C], fresh noise for positions that are not accepted


class Rows(NamedTuple):
    """The state of B rows: the canvas and its history."""

    canvas: Tensor  # int64 [B, C]
    argmax: Tensor  # int64 [B, C], of the last step; -1 before the first
    unchanged: Tensor  # int32 [B], for how many steps the whole argmax canvas has stayed the same
    revisions: Tensor  # int32 [B, C], how often the argmax of a position has changed
    stable_since: Tensor  # int32 [B, C], the step since which the argmax has stayed the same; the first step is 1
    early: Tensor  # int64 [B, C], the argmax of step EARLY_STEP, or of the last step before it
    step: Tensor  # int32 [B], finished steps


def draw(keys_B2: Tensor, step_B: Tensor, *, length: int, vocab: int, denoise: DenoiseConfig) -> Draws:
    """The draws of the next step. keys_B2: int32 of `noise.row_keys`. step_B: int32, finished steps of each row."""
    temperature = sampler.temperature(
        step_B, max_steps=denoise.max_steps, minimum=denoise.temperature_min, maximum=denoise.temperature_max
    )
    return Draws(
        temperature[:, None].expand(-1, length).reshape(-1),
        noise.position_keys(keys_B2, step_B, noise.SAMPLE, length).reshape(-1, 2),
        noise.random_tokens(keys_B2, step_B, noise.RENOISE, length, vocab),
    )


def advance(
    rows: Rows, entropy_N: Tensor, argmax_N: Tensor, sample_N: Tensor, tokens_BC: Tensor, *, denoise: DenoiseConfig
) -> tuple[Rows, Tensor]:
    """The rows after a step, and bool [B]: which of them end with it. The arguments are not modified.

    entropy_N, argmax_N, sample_N: [B * C], from the vocabulary head. tokens_BC: int64, fresh noise. A row whose
    entropies are not finite ends too.
    """
    entropy, argmax, sample = (of.view(rows.canvas.shape) for of in (entropy_N, argmax_N, sample_N))
    changed = argmax != rows.argmax
    unchanged = torch.where(changed.any(-1), 0, rows.unchanged + 1)
    ends = sampler.stops(
        unchanged,
        entropy,
        rows.step,
        stability=denoise.stability,
        threshold=denoise.confidence_threshold,
        max_steps=denoise.max_steps,
        early=denoise.early_stop,
    )
    after = Rows(
        canvas=torch.where(sampler.accept(entropy, denoise.entropy_bound, denoise.acceptance), sample, tokens_BC),
        argmax=argmax,
        unchanged=unchanged,
        revisions=rows.revisions + (changed & (rows.step > 0)[:, None]),
        stable_since=torch.where(changed, (rows.step + 1)[:, None], rows.stable_since),
        early=torch.where((rows.step < EARLY_STEP)[:, None], argmax, rows.early),
        step=rows.step + 1,
    )
    return after, ends | ~entropy.isfinite().all(-1)
