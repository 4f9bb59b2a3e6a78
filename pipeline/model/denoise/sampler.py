"""The arithmetic of one denoising step after the vocabulary head: temperature, acceptance, stopping. All per row."""

from __future__ import annotations

import torch
from torch import Tensor


def temperature(step_B: Tensor, *, max_steps: int, minimum: float, maximum: float) -> Tensor:
    """step_B: steps already done, 0 first. Linear from `maximum` at the first step; transformers' schedule."""
    remaining = (max_steps - step_B).float()
    return minimum + (maximum - minimum) * (remaining / max_steps)


def accept(entropy_BC: Tensor, bound: float) -> Tensor:
    """Bool [batch, canvas]: the lowest-entropy positions while the sum of entropies before one is within `bound`.

    Source: arXiv 2505.24857, entropy-bounded sampling; re-decided at every step. At least one position is accepted.
    """
    ordered, order = torch.sort(entropy_BC, dim=-1, stable=True)
    selected = ordered.cumsum(-1) - ordered <= bound
    return torch.zeros_like(selected).scatter(-1, order, selected)


def stops(
    unchanged_B: Tensor,
    entropy_BC: Tensor,
    step_B: Tensor,
    *,
    stability: int,
    threshold: float,
    max_steps: int,
    early: bool,
) -> Tensor:
    """Bool [batch]: rows that end with this step. unchanged_B: for how many steps the argmax canvas has repeated.

    `stable and confident` as in transformers (the mean entropy includes the end-token tail), or the last step.
    """
    last = step_B + 1 >= max_steps
    if not early:
        return last
    return last | ((unchanged_B >= stability) & (entropy_BC.mean(-1) < threshold))
