"""The rules of a denoising step, each for every row by itself: temperature, which tokens are accepted, when to stop."""

from __future__ import annotations

import torch
from torch import Tensor


def temperature(step_B: Tensor, *, max_steps: int, minimum: float, maximum: float) -> Tensor:
    """float32 [batch]: linear from `maximum` in the first step, as in transformers. step_B: finished steps."""
    remaining = (max_steps - step_B).float()
    return minimum + (maximum - minimum) * (remaining / max_steps)


def accept(entropy_BC: Tensor, bound: float, rule: str = "cumulative") -> Tensor:
    """Bool [batch, canvas]: the positions that keep their sample. Every step decides anew.

    entropy_BC in nats. rule "cumulative": positions by rising entropy, while the sum of the entropies before each is
    within `bound`; at least one is accepted. Source: arXiv 2505.24857, entropy-bounded sampling, as in transformers.
    rule "each": positions whose own entropy is below `bound`; perhaps none. Source: arXiv 2607.13013, algorithm 1.
    """
    if rule == "each":
        return entropy_BC < bound
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
    """Bool [batch]: rows that end with this step. unchanged_B: for how many steps the argmax canvas stayed the same.

    A row ends with its last step, or, where `early`, when it is stable and confident as in transformers. The mean
    entropy counts the end tokens too.
    """
    last = step_B + 1 >= max_steps
    if not early:
        return last
    return last | ((unchanged_B >= stability) & (entropy_BC.mean(-1) < threshold))
