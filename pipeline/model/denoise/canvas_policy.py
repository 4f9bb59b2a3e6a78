"""Which canvas length a segment gets: the model's own, a fixed one, or (`auto`) a bucket from its speech seconds."""

from __future__ import annotations

import math
from typing import Literal

MARGIN = 1.25  # on the tokens that the model's own canvas has per second of its window
END_TOKENS = 2  # a canvas that is not full ends with at least one end token
THIRDS = (1, 2, 3)
MULTIPLE = 8


def lengths(setting: int | Literal["auto"] | None, *, own: int, prompt: int) -> tuple[int, ...]:
    """Canvas lengths in use, ascending, the full one last. own: the model's canvas; prompt: its prompt length.

    Shorter buckets avoid prompt + canvas = 1 mod 32, where memory-efficient attention has been silently wrong
    (PyTorch issue 191937: with a mask and bfloat16; this code passes no mask, so it is a second fence).
    """
    if isinstance(setting, int):
        return (setting,)
    if setting is None:
        return (own,)
    shorter = set()
    for third in THIRDS:
        length = math.ceil(own * third / len(THIRDS) / MULTIPLE) * MULTIPLE
        length += MULTIPLE if (prompt + length) % 32 == 1 else 0
        if length < own:
            shorter.add(length)
    return (*sorted(shorter), own)


def choose(available: tuple[int, ...], *, seconds: float, window_seconds: float) -> int:
    """The shortest of `available` that should hold `seconds` of speech; the full canvas where none does.

    A wrong guess costs time, never text: a row that fills its canvas without an end token is run again on the full one.
    """
    full = available[-1]
    needed = seconds * full / window_seconds * MARGIN + END_TOKENS
    return next((length for length in available if length >= needed), full)
