"""Mandarin in one script: Whisper writes simplified and traditional characters as it likes."""

from __future__ import annotations

from functools import cache

from opencc import OpenCC

from pipeline.schemas import SegmentResult


@cache
def _converter() -> OpenCC:
    return OpenCC("t2s")


def simplify(result: SegmentResult) -> None:
    """Write text and words of a result in simplified characters."""
    text = result.text or ""
    simplified = _converter().convert(text)
    if len(simplified) != len(text):
        simplified = "".join(map(_converter().convert, text))
    letters = iter("".join(simplified.split()))
    for word in result.words:
        word["text"] = "".join(next(letters) for _ in word["text"])
    result.text = simplified
