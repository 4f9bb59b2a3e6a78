"""Words heard twice, where a window had to begin before the one before it ended, are kept once."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

from pipeline.schemas import SAMPLE_RATE

# No more can be heard twice than fast speech has in the overlap, so that "no no no" stays three words. English at its
# fastest has about 6 words a second, Mandarin 8 syllables.
UNITS_PER_SECOND = 8


def stitch(segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """segments: the results of one recording in order, with text, words [{text, ...}], start_sample, end_sample and
    overlaps_previous; other keys pass through. Not modified.

    Returns them in order, each with its own times. In one that overlaps the one before it, the longest beginning that
    repeats that one's end, compared without case and punctuation, loses its words; its text is joined from the rest,
    its confidence is their mean. One of which nothing is left is not returned: empty text would mean silence. Han
    characters are compared one by one. Everything else stays as it is.
    """
    stitched = []
    before: dict[str, Any] | None = None
    for segment in segments:
        if before is not None and segment["overlaps_previous"]:
            seconds = (before["end_sample"] - segment["start_sample"]) / SAMPLE_RATE
            rest = _without_repeats(segment, before["words"] or [], math.ceil(seconds * UNITS_PER_SECOND))
            if rest["words"] or not segment["words"]:
                stitched.append(rest)
        else:
            stitched.append(dict(segment))
        before = segment
    return stitched


def join_words(words: list[dict[str, Any]]) -> str:
    """Text of words [{text, ...}]: one space between them, none beside a Han character or fullwidth punctuation."""
    text = ""
    for word in words:
        if text and word["text"] and not (_is_wide(text[-1]) or _is_wide(word["text"][0])):
            text += " "
        text += word["text"]
    return text


def _without_repeats(segment: dict[str, Any], words_before: list[dict[str, Any]], most: int) -> dict[str, Any]:
    words = segment["words"] or []
    heard, known = _units(words), [unit for unit, _, _ in _units(words_before)]
    for count in range(min(most, len(heard), len(known)), 0, -1):
        if [unit for unit, _, _ in heard[:count]] == known[-count:]:
            break
    else:
        return dict(segment)
    _, index, used = heard[count - 1]
    rest = words[index]["text"][used:]
    kept = ([words[index] | {"text": rest}] if rest else []) + words[index + 1 :]
    while kept and not _units(kept[:1]):  # punctuation of the words that are gone
        kept = kept[1:]
    confidence = sum(word["confidence"] for word in kept) / len(kept) if kept else None
    return segment | {"words": kept, "text": join_words(kept), "confidence": confidence}


def _units(words: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """What is compared: (normalised word or Han character, index of the word, its characters up to there)."""
    units: list[tuple[str, int, int]] = []
    for index, text in enumerate(word["text"] for word in words):
        if not any(_is_wide(character) for character in text):
            if plain := _normalised(text):
                units.append((plain, index, len(text)))
            continue
        for end, character in enumerate(text, start=1):
            if plain := _normalised(character):
                units.append((plain, index, end))
            elif units and units[-1][1] == index:  # punctuation goes with the character before it
                units[-1] = (units[-1][0], index, end)
    return units


def _normalised(text: str) -> str:
    """Letters, marks and digits only, without case and width: empty for punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if unicodedata.category(character)[0] in "LMN")


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F")
