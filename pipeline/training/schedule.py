"""The learning rate of a step, and what is told of a run whose number of steps was changed on the way."""

from __future__ import annotations

import math

Changes = list[list[int]]  # [step at which it was, total of before]


def learning_rate(step: int, *, peak: float, warmup: int, total: int, end_fraction: float) -> float:
    """Linear warm-up over `warmup` steps to `peak`, then a cosine down to end_fraction of it at step `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return peak * (end_fraction + (1 - end_fraction) * 0.5 * (1 + math.cos(math.pi * done)))


def told(rescheduled: Changes) -> str:
    """Sentences of a model card."""
    return "".join(
        f" At step {step} of {total} its number of steps was changed; from there on the rate follows the new cosine."
        for step, total in rescheduled
    )
