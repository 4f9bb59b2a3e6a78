"""The learning rate of a step."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, warmup: int, total: int, end_fraction: float) -> float:
    """Linear warm-up over `warmup` steps to `peak`, then a cosine down to end_fraction of it at step `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return peak * (end_fraction + (1 - end_fraction) * 0.5 * (1 + math.cos(math.pi * done)))
