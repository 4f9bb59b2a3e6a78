"""Removes words that were recognised twice, because two windows overlap where speech had no pause."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

from pipeline.output.words import listed
from pipeline.schemas import SAMPLE_RATE
from pipeline.text.spelling import letters

# Upper limit of words, or Han characters, that the overlap can contain. Without it "no no no" would become one word.
# Very fast English has about 6 words a second, Mandarin 8 syllables.
TOKENS_PER_SECOND = 8


def stitch_segments(segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove repeated words at the beginning of each segment that overlaps the segment before it.

    Words are compared without case and punctuation, Han characters one by one. The longest beginning of a segment that
    repeats the end of the segment before is removed, but not more than the overlap can contain. The text of the segment
    is then joined from the remaining words, and its confidence is their mean. If no word remains, the segment is left
    out: empty text would mean silence. Times do not change.

    segments: results of one recording in order, with text, words [{text, confidence}], start_sample, end_sample and
    overlaps_previous; not modified. Other keys stay as they are.
    """
    stitched = []
    before: dict[str, Any] | None = None
    for segment in segments:
        if before is not None and segment["overlaps_previous"]:
            seconds = (before["end_sample"] - segment["start_sample"]) / SAMPLE_RATE
            segment = segment | {"words": listed(segment["words"])}
            rest = _without_repeats(segment, listed(before["words"]), math.ceil(seconds * TOKENS_PER_SECOND))
            if rest["words"] or not segment["words"]:
                stitched.append(rest)
        else:
            stitched.append(dict(segment))
        before = segment
    return stitched


def join_words(words: list[dict[str, Any]]) -> str:
    """The text of words [{text, ...}], with a space between two words unless one is Han or fullwidth punctuation."""
    text = ""
    for word in words:
        if text and word["text"] and not (_is_wide(text[-1]) or _is_wide(word["text"][0])):
            text += " "
        text += word["text"]
    return text


def _without_repeats(segment: dict[str, Any], words_before: list[dict[str, Any]], most: int) -> dict[str, Any]:
    """A copy of `segment` without the words that repeat the end of `words_before`; removes at most `most` tokens."""
    words = segment["words"]
    tokens, before = _tokens(words), [token for token, _, _ in _tokens(words_before)]
    for count in range(min(most, len(tokens), len(before)), 0, -1):
        if [token for token, _, _ in tokens[:count]] == before[-count:]:
            break
    else:
        return dict(segment)
    _, index, end = tokens[count - 1]  # the last repeated token: in which word it is, and where in it it ends
    rest = words[index]["text"][end:]
    remaining = ([words[index] | {"text": rest}] if rest else []) + words[index + 1 :]
    while remaining and not _tokens(remaining[:1]):  # punctuation that belongs to the removed words
        remaining = remaining[1:]
    confidence = sum(word["confidence"] for word in remaining) / len(remaining) if remaining else None
    return segment | {"words": remaining, "text": join_words(remaining), "confidence": confidence}


def _tokens(words: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """What is compared: (normalised word or Han character, index of its word, where in the word it ends)."""
    tokens: list[tuple[str, int, int]] = []
    for index, text in enumerate(word["text"] for word in words):
        if not any(_is_wide(character) for character in text):
            if plain := letters(text):
                tokens.append((plain, index, len(text)))
            continue
        for end, character in enumerate(text, start=1):
            if plain := letters(character):
                tokens.append((plain, index, end))
            elif tokens and tokens[-1][1] == index:  # punctuation belongs to the character before it
                tokens[-1] = (tokens[-1][0], index, end)
    return tokens


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F")
