"""Subtitle cues from words with times: at most two lines, seven seconds, and no pause inside."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.export.labels import Label
from pipeline.output.stitch import join_words

LINE_WIDTH = 42  # Latin characters; a Han character counts as two
LINES = 2
LONGEST_MS = 7000
PAUSE_MS = 1000  # a longer pause between two words ends a cue


@dataclass(frozen=True, slots=True)
class Cue:
    """Lines that are shown from start_ms to end_ms of the recording."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def cues_of(label: Label) -> Iterator[Cue]:
    """The cues of a label in order. Where a word has no time, the label is one cue with all of its text."""
    timed = [(word["text"], word["start_ms"], word["end_ms"]) for word in label.words]
    if not timed or any(start is None or end is None for _, start, end in timed):
        yield Cue(label.start_ms, label.end_ms, (label.text,))
        return
    cue: list[tuple[str, int, int]] = []
    for word in timed:
        if cue and not _fits(cue, word):
            yield _cue(cue)
            cue = []
        cue.append(word)
    yield _cue(cue)


def _fits(cue: Sequence[tuple[str, int, int]], word: tuple[str, int, int]) -> bool:
    _, start, end = word
    together = _lines([*(text for text, _, _ in cue), word[0]])
    return len(together) <= LINES and end - cue[0][1] <= LONGEST_MS and start - cue[-1][2] <= PAUSE_MS


def _cue(words: Sequence[tuple[str, int, int]]) -> Cue:
    return Cue(words[0][1], max(end for _, _, end in words), tuple(_lines([text for text, _, _ in words])))


def _lines(words: Sequence[str]) -> list[str]:
    """The words in lines of at most LINE_WIDTH; a longer word has a line of its own."""
    lines: list[list[str]] = [[]]
    for word in words:
        if lines[-1] and _width(_joined([*lines[-1], word])) > LINE_WIDTH:
            lines.append([])
        lines[-1].append(word)
    return [_joined(line) for line in lines]


def _joined(words: Sequence[str]) -> str:
    return join_words([{"text": word} for word in words])


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
