"""What the steps of a canvas and CTC say of a segment and of its words, beside their confidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rapidfuzz.distance import Levenshtein

from pipeline.model.denoise.ctc import Hypothesis

Span = tuple[int, int]  # the first and the last of some tokens
Signals = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class FinalCanvas:
    """The last step of one row. Each list has one entry per canvas position; None: the engine denoises nothing."""

    tokens: list[int]  # argmax
    probability: list[float]  # of that token at T = 1
    entropy: list[float]  # nats at T = 1
    stable_since: list[int] | None  # step since which the argmax has not changed; the first step is 1
    revisions: list[int] | None  # how often it changed after the first step
    steps: int
    early: list[int] | None = None  # the argmax of step 2


def spoken_tokens(canvas: FinalCanvas, eos: set[int]) -> list[int]:
    """The tokens of the text: up to the first end token, or all of them. eos: ids of the end tokens."""
    end = next((i for i, token in enumerate(canvas.tokens) if token in eos), len(canvas.tokens))
    return canvas.tokens[:end]


def canvas_signals(canvas: FinalCanvas, counted: list[int], *, eos: set[int], vocab_size: int) -> Signals:
    """The signals of denoising. counted: positions of the canvas, at least one. eos: ids of the end tokens."""
    probability = [canvas.probability[at] for at in counted]
    entropy = [_normalised_entropy(canvas, at, vocab_size) for at in counted]
    stable, revisions, early = canvas.stable_since, canvas.revisions, None
    if canvas.early is not None:
        before = spoken_tokens(replace(canvas, tokens=canvas.early), eos)
        early = Levenshtein.normalized_distance(before, spoken_tokens(canvas, eos))
    return {
        "token_probability_mean": _mean(probability),
        "token_probability_min": min(probability),
        "entropy_mean": _mean(entropy),
        "entropy_max": max(entropy),
        "first_stable_step_mean": None if stable is None else _mean([stable[at] for at in counted]),
        "revisions": None if revisions is None else float(sum(revisions[at] for at in counted)),
        "early_distance": early,
    }


def word_signals(
    canvas: FinalCanvas,
    positions: list[int],
    words: list[tuple[str, Span]],
    heard: Hypothesis | None,
    text: str,
    *,
    vocab_size: int,
) -> Iterator[Signals]:
    """For each word the fields of schemas.WORD_SIGNALS.

    positions: of the text's tokens on the canvas. words: of the text, each with its first and its last token. heard:
    what CTC says of these tokens; None: the model has no CTC.
    """
    stable, revisions, early = canvas.stable_since, canvas.revisions, canvas.early
    scores = heard.token_scores if heard else None
    agreed = ctc_agreement([word for word, _ in words], text, heard.text) if heard else None
    for number, (_, (first, last)) in enumerate(words):
        own = positions[first : last + 1]
        probability = [canvas.probability[at] for at in own]
        yield {
            "token_probability_min": min(probability),
            "token_probability_mean": _mean(probability),
            "entropy_max": max(_normalised_entropy(canvas, at, vocab_size) for at in own),
            "first_stable_step": None if stable is None else float(max(stable[at] for at in own)),
            "revisions": None if revisions is None else float(sum(revisions[at] for at in own)),
            "early_distance": None if early is None else _mean([early[at] != canvas.tokens[at] for at in own]),
            "ctc_score": None if scores is None else min(scores[first : last + 1]),
            "ctc_agreement": None if agreed is None else agreed[number],
        }


def ctc_agreement(words: list[str], text: str, own: str) -> list[float]:
    """For each word of a text the share of its characters that CTC's `own` text has too, at the same place.

    Places are those of an alignment of both texts with the fewest errors. Words are in the order of the text.
    """
    agreed = [False] * len(text)
    for block in Levenshtein.opcodes(text, own):
        if block.tag == "equal":
            agreed[block.src_start : block.src_end] = [True] * (block.src_end - block.src_start)
    shares, end = [], 0
    for word in words:
        start = text.index(word, end)
        end = start + len(word)
        shares.append(_mean(agreed[start:end]))
    return shares


def _normalised_entropy(canvas: FinalCanvas, position: int, vocab_size: int) -> float:
    """Entropy of a token as a share of the highest one, in [0, 1]."""
    return min(1.0, max(0.0, canvas.entropy[position] / math.log(vocab_size)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
