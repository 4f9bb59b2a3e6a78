"""From the final canvas of a segment to its text, its words with confidence, and its signals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from rapidfuzz.distance import Levenshtein
from tokenizers import Tokenizer

from pipeline.model.denoise.ctc import Hypothesis
from pipeline.model.denoise.repeats import is_han, kept_words
from pipeline.model.denoise.signals import FinalCanvas, Span, canvas_signals, spoken_tokens, word_signals
from pipeline.model.denoise.timing import word_times
from pipeline.schemas import SegmentResult, Word

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token that spells one byte: the decoder reads a run of them as a whole


class Speller(Protocol):
    """What spells tokens: a `Tokenizer`, or anything else with these two methods of it."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens."""

    def id_to_token(self, id: int) -> str | None:
        """The piece of one token, as the tokenizer stores it."""


@dataclass(frozen=True, slots=True)
class Sound:
    """The sound of a segment: int16 samples at 16 kHz, and how many milliseconds an audio slot stands for."""

    pcm: bytes | memoryview
    slot_ms: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of a text without the repetitions that CTC has not heard."""

    positions: list[int]  # of the canvas, ascending
    removed: int  # words


def without_repeats(tokens: list[int], hypothesis: str, tokenizer: Tokenizer) -> Kept:
    """Remove the tokens of the words that `kept_words` does not keep.

    tokens: of `spoken_tokens`. hypothesis: the greedy CTC text. Tokens between two words (spaces) leave with the second
    one. Two Han characters may be one token; then both stay or leave.
    """
    words = spelled(tokens, tokenizer)
    spans = [span for _, span in words]
    joined = {number + 1 for number, (one, other) in enumerate(pairwise(spans)) if other[0] <= one[1]}
    kept = kept_words([word for word, _ in words], hypothesis, joined)
    return Kept(kept_positions(spans, kept, len(tokens)), len(words) - len(kept))


def kept_positions(spans: list[Span], kept: Sequence[int], count: int) -> list[int]:
    """Which of `count` tokens stay, if of all words only those of these numbers stay. spans: of `spelled`.

    Tokens between two words (spaces) leave with the second one.
    """
    gone: set[int] = set()
    for number in set(range(len(spans))).difference(kept):
        gone.update(range(spans[number - 1][1] + 1 if number else 0, spans[number][1] + 1))
    return [position for position in range(count) if position not in gone]


def result(
    canvas: FinalCanvas,
    heard: Hypothesis | None,
    tokenizer: Tokenizer,
    *,
    eos: set[int],
    vocab_size: int,
    sound: Sound | None = None,
    kept: Kept | None = None,
) -> SegmentResult:
    """Text up to the first end token. Confidences and signals count the tokens of that text only.

    A word's confidence is the lowest T = 1 probability of its tokens. The segment's confidence is the geometric mean of
    what two judges say: denoising (the mean of its words, or the probability of the end token where the text is empty)
    and CTC (the probability of the text per token). Denoising is sure of whatever it has written; CTC has not read it.
    Where CTC cannot align the text, the share of the text on which it agrees (1 - ctc_disagreement) counts instead.
    Entropies are divided by log(vocabulary), so they are in [0, 1]. Words get times from the segment's beginning where
    CTC can align the text.

    Args:
        canvas: of the last step.
        heard: what CTC says, for the tokens of the text; None: the model has no CTC.
        tokenizer: of the model.
        eos: ids of the end tokens.
        vocab_size: of the model.
        sound: of the segment, for the times of words; None: they are not wanted.
        kept: of `without_repeats`; None: every word stays.
    """
    length = len(canvas.tokens)
    end = len(spoken_tokens(canvas, eos))
    positions = kept.positions if kept else list(range(end))
    tokens = [canvas.tokens[position] for position in positions]
    overflow = end == length
    text = str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
    probability = [canvas.probability[position] for position in positions]
    parts = spelled(tokens, tokenizer)
    words = _timed(parts, probability, heard.spans if heard else None, sound)
    for word, signals in zip(
        words, word_signals(canvas, positions, parts, heard, text, vocab_size=vocab_size), strict=True
    ):
        word["signals"] = signals
    sure = sum(word["confidence"] for word in words) / len(words) if words else canvas.probability[min(end, length - 1)]
    disagreement = Levenshtein.normalized_distance(text, heard.text) if heard else None
    return SegmentResult(
        text=text,
        confidence=_with_ctc(sure, heard, disagreement),
        words=words,
        signals=canvas_signals(canvas, positions or [0], eos=eos, vocab_size=vocab_size)
        | {
            "ctc_score": heard.score if heard else None,
            "ctc_disagreement": disagreement,
            "repeats_removed": float(kept.removed) if kept else None,
        },
        steps=canvas.steps,
        canvas_length=length,
        canvas_fill=end / length,
        overflow=overflow,
    )


def _with_ctc(sure: float, heard: Hypothesis | None, disagreement: float | None) -> float:
    """What CTC makes of the confidence of denoising, as `result` says."""
    if heard and heard.score is not None:
        sure = math.sqrt(sure * math.exp(heard.score))
    else:
        sure *= 1 - (disagreement or 0)
    return min(1.0, max(0.0, sure))


def words_of(
    tokens: list[int],
    probability: list[float],
    spans: list[tuple[int, int]] | None,
    tokenizer: Tokenizer,
    sound: Sound | None = None,
) -> list[Word]:
    """Words between white space, each Han character alone, with the lowest probability of their tokens and their times.

    spans: the first and the last audio slot of each token; None: unknown, and so are the times.
    """
    return _timed(spelled(tokens, tokenizer), probability, spans, sound)


def _timed(
    words: list[tuple[str, Span]], probability: list[float], spans: list[Span] | None, sound: Sound | None
) -> list[Word]:
    """The words of `words_of`. words: of `spelled`."""
    times: Sequence[tuple[int | None, int | None]] = [(None, None)] * len(words)
    if spans and sound and words:
        slots = [(spans[first][0], spans[last][1]) for _, (first, last) in words]
        times = word_times(slots, sound.pcm, sound.slot_ms)
    return [
        {
            "text": word,
            "confidence": min(probability[first : last + 1]),
            "start_ms": start,
            "end_ms": end,
            "signals": None,
        }
        for (word, (first, last)), (start, end) in zip(words, times, strict=True)
    ]


def spelled(tokens: list[int], tokenizer: Speller) -> list[tuple[str, Span]]:
    """The words of `words_of`, each with the first and the last token that spell it."""
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    words: list[tuple[str, Span]] = []
    joined = False  # whether the next character belongs to the last word
    for character, span in zip(text, _per_character(tokens, tokenizer), strict=True):
        if character.isspace():
            joined = False
            continue
        han = is_han(character)
        if joined and not han:
            words[-1] = (words[-1][0] + character, _union(words[-1][1], span))
        else:
            words.append((character, span))
        joined = not han
    return words


def _union(*spans: Span) -> Span:
    return min(first for first, _ in spans), max(last for _, last in spans)


def _per_character(tokens: list[int], tokenizer: Speller) -> list[Span]:
    """For each character of the text, the first and the last token that spell it.

    It finds them by turning longer and longer runs of the tokens into text. Characters that a run of byte tokens spells
    share the tokens of the run. Bytes that are no whole character yet stand at the end of a text as U+FFFD.

    A run begins anew behind each token that is no byte and spells whole characters by itself, with that token for the
    decoder's sake. So the work grows with the number of tokens, not with its square.
    """

    def text(first: int, end: int) -> str:
        return str(tokenizer.decode(tokens[first:end], skip_special_tokens=True))

    spans: list[Span] = []
    run: list[Span] = []  # the tokens since the last whole character
    start = base = cut = 0  # a text from token `start`, without its first `cut` characters, follows `base` characters
    decoded = ""
    for number in range(len(tokens)):
        own = (number, number)
        decoded = text(start, number + 1)[cut:]
        settled = base + len(decoded.rstrip("\ufffd"))
        run += spans[settled:]
        new = decoded[len(spans) - base : settled - base]
        bytes_before = len(new) - len(new.lstrip("\ufffd"))
        before = _union(*run) if run else own
        whole = own if bytes_before else _union(before, own)
        spans = spans[:settled] + [before] * bytes_before + [whole] * (len(new) - bytes_before)
        if settled < base + len(decoded):
            run.append(own)
        elif new:
            run = []
        alone = text(number, number + 1)
        piece = tokenizer.id_to_token(tokens[number]) or ""
        if not run and alone and "\ufffd" not in alone and not _BYTE.fullmatch(piece):
            start, base, cut, decoded = number, len(spans), len(alone), ""
    return spans + [_union(*run)] * (base + len(decoded) - len(spans)) if run else spans
