"""One text from several of the same segment: ROVER, word by word (Fiscus 1997, doi 10.1109/ASRU.1997.659110).

Each text votes with its segment's confidence: for its word at a place, or for none. The most confident text goes first:
the others are aligned with it, Han characters one by one, and of two equal sums its word wins. Capitals and punctuation
do not count. So a text that more than half of the confidence stands behind wins whole.

A word comes from the most confident text that has it here, with its confidence, times and signals. Everything else of
the result (confidence, signals, steps, canvas) is that of the text that is nearest to the elected one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from rapidfuzz.distance import Levenshtein

from pipeline.model.denoise.repeats import is_han
from pipeline.schemas import SegmentResult, Word
from pipeline.text.spelling import letters

# Word of the first text; True: in its place, False: before it; which of several there.
Place = tuple[int, bool, int]


@dataclass(slots=True)
class Ballot:
    """The votes on one segment. future: of its result. votes: how many there are, with the first."""

    future: Future[SegmentResult]
    votes: int
    first: SegmentResult
    _cast: dict[int, SegmentResult | None] = field(default_factory=dict)

    def cast(self, vote: int, result: SegmentResult | None) -> SegmentResult | None:
        """Count a vote, from 1; None: it is lost. Returns the elected result with the last one, else None."""
        self._cast[vote] = result
        if len(self._cast) < self.votes - 1:
            return None
        return elected([self.first, *(text for _, text in sorted(self._cast.items()) if text)])


def elected(texts: Sequence[SegmentResult]) -> SegmentResult:
    """The result of a vote, with the signals `votes` and `vote_agreement`. texts: at least one, in their order.

    vote_agreement of a word is the share of the texts that have it here. That of the segment is the share for what won,
    mean over all places, also those where no word won.
    """
    texts = sorted(texts, key=lambda text: -(text.confidence or 0))
    spelled = [[_spelled(word) for word in text.words] for text in texts]
    table: dict[Place, list[int | None]] = {}  # of each text the number of its word there
    for number, own in enumerate(spelled):
        for place, at in _places(spelled[0], own):
            table.setdefault(place, [None] * len(texts))[number] = at
    words: list[Word] = []
    shares: list[float] = []
    for _, row in sorted(table.items()):
        keys = [None if at is None else own[at] for own, at in zip(spelled, row, strict=True)]
        weights: dict[str | None, float] = {}
        for key, text in zip(keys, texts, strict=True):
            weights[key] = weights.get(key, 0.0) + (text.confidence or 0)
        winner = max(weights, key=lambda key: weights[key])
        shares.append(keys.count(winner) / len(texts))
        if winner is not None:
            number = keys.index(winner)
            words.append(_with(texts[number].words[row[number] or 0], shares[-1], words))
    elect = [_spelled(word) for word in words]
    nearest = min(range(len(texts)), key=lambda number: Levenshtein.distance(elect, spelled[number]))
    signals: dict[str, float | None] = dict(texts[nearest].signals or {})
    signals |= {"votes": float(len(texts)), "vote_agreement": sum(shares) / len(shares) if shares else 1.0}
    return replace(texts[nearest], text=_joined(words, texts[nearest]), words=words, signals=signals)


def _spelled(word: Word) -> str:
    """What counts of a word: its letters, or all of it where it has none."""
    return letters(word["text"]) or word["text"]


def _places(first: list[str], words: list[str]) -> Iterator[tuple[Place, int]]:
    """The place of each word of a text, in the order of the places."""
    for block in Levenshtein.opcodes(first, words):
        for step in range(block.dest_end - block.dest_start):
            at = (block.src_start, False, step) if block.tag == "insert" else (block.src_start + step, True, 0)
            yield at, block.dest_start + step


def _with(word: Word, share: float, before: list[Word]) -> Word:
    """A copy with its signal. before: the words before it; where they end later in another text, it begins there."""
    start, end = word["start_ms"], word["end_ms"]
    last = before[-1]["end_ms"] if before else None
    if start is not None and end is not None and last is not None:
        start, end = max(start, last), max(end, last)
    signals: dict[str, float | None] = dict(word["signals"] or {})
    signals["vote_agreement"] = share
    return {
        "text": word["text"],
        "confidence": word["confidence"],
        "start_ms": start,
        "end_ms": end,
        "signals": signals,
    }


def _joined(words: list[Word], nearest: SegmentResult) -> str:
    """The text of words: that of the nearest text where it has the same, else with a space but between Han."""
    if [word["text"] for word in words] == [word["text"] for word in nearest.words]:
        return nearest.text or ""
    text = ""
    for word in words:
        together = not text or is_han(text[-1]) or is_han(word["text"][0])
        text += word["text"] if together else f" {word['text']}"
    return text
