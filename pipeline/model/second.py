"""How far the text of a second model agrees with a segment's own, as evaluation would compare the two."""

from __future__ import annotations

from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from pipeline.text.normalise import normaliser


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares in [0, 1] of a segment and of its words; None: nothing is left of a word."""

    segment: float
    words: list[float | None]


def agreement(text: str, words: list[str], other: str, language: str | None) -> Agreement:
    """Both texts are compared after the normaliser that evaluation takes for a language; None: for any.

    Of the segment: 1 less the edit distance of the texts, as a share of the longer one. Of a word: the share of its
    letters that the other text has too, at the same place of an alignment with the fewest errors, spaces left out.
    words: of the text, in its order; each is normalised by itself.
    """
    normal = normaliser("auto", language or "")
    theirs = normal(other)
    own = ["".join(normal(word).split()) for word in words]
    letters, shares, end = "".join(own), list[float | None](), 0
    agreed = [0] * len(letters)
    for block in Levenshtein.opcodes(letters, "".join(theirs.split())):
        if block.tag == "equal":
            agreed[block.src_start : block.src_end] = [1] * (block.src_end - block.src_start)
    for word in own:
        start, end = end, end + len(word)
        shares.append(sum(agreed[start:end]) / len(word) if word else None)
    return Agreement(1 - Levenshtein.normalized_distance(normal(text), theirs), shares)
