"""Chooses the canvas length of a segment: the model's own, a fixed one, or (`auto`) one of a few by what CTC hears."""

from __future__ import annotations

import math
from typing import Literal

MARGIN = 1.25  # tokens of the text, at most, for each token that CTC has heard
END_TOKENS = 2  # room for them: a canvas that is not full has at least one
THIRDS = (1, 2, 3)
MULTIPLE = 8


def lengths(setting: int | Literal["auto"] | None, *, own: int) -> tuple[int, ...]:
    """Canvas lengths in use, ascending; the last one is the full canvas.

    setting: `denoise.canvas_length`. own: the model's own canvas.
    """
    if isinstance(setting, int):
        return (setting,)
    if setting is None:
        return (own,)
    shorter = set()
    for third in THIRDS:
        length = math.ceil(own * third / len(THIRDS) / MULTIPLE) * MULTIPLE
        if length < own:
            shorter.add(length)
    return (*sorted(shorter), own)


def choose(available: tuple[int, ...], *, tokens: int) -> int:
    """The shortest of `available` lengths that should be enough; else the full canvas.

    A wrong guess costs time and no text: a row that fills a short canvas without an end token runs again on the full
    one.

    tokens: of the greedy CTC text.
    """
    needed = tokens * MARGIN + END_TOKENS
    return next((length for length in available if length >= needed), available[-1])
