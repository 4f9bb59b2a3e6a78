"""What surrounds the two great calls of a denoising step: its random draws before, the bookkeeping of rows after.

Pure functions of many small operations: compiled they are one graph each, for any number of rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise, sampler


class Draws(NamedTuple):
    """All that is random in a step of B rows of C positions, and the temperature."""

    temperature: Tensor  # float32 [B * C]
    sample_keys: Tensor  # int32 [B * C, 2], for the vocabulary head
    tokens: Tensor  # int64 [B, C], fresh noise for positions that are not accepted


class Rows(NamedTuple):
    """The state of B rows; all but the canvas say how it came about."""

    canvas: Tensor  # int64 [B, C]
    argmax: Tensor  # int64 [B, C], of the last step; -1 before the first
    unchanged: Tensor  # int32 [B], steps for which the argmax canvas has repeated
    revisions: Tensor  # int32 [B, C], how often the argmax of a position has changed
    stable_since: Tensor  # int32 [B, C], first step from which it has stayed, from 1
    step: Tensor  # int32 [B], steps done


def draw(keys_B2: Tensor, step_B: Tensor, *, length: int, vocab: int, denoise: DenoiseConfig) -> Draws:
    """The draws of the step after `step_B` steps for rows with keys of `noise.row_keys`."""
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
    """The rows after a step, and bool [B]: which of them end with it. Nothing is modified.

    entropy_N, argmax_N, sample_N: of the vocabulary head, [B * C]. A row without finite entropies ends as well.
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
        canvas=torch.where(sampler.accept(entropy, denoise.entropy_bound), sample, tokens_BC),
        argmax=argmax,
        unchanged=unchanged,
        revisions=rows.revisions + (changed & (rows.step > 0)[:, None]),
        stable_since=torch.where(changed, (rows.step + 1)[:, None], rows.stable_since),
        step=rows.step + 1,
    )
    return after, ends | ~entropy.isfinite().all(-1)
