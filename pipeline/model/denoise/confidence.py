"""From the final canvas to text, words with confidence, and the raw signals."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

from tokenizers import Tokenizer

from pipeline.schemas import SegmentResult


@dataclass(frozen=True, slots=True)
class FinalCanvas:
    """The last step of one row: one entry per canvas position."""

    tokens: list[int]  # argmax
    probability: list[float]  # of that argmax at T = 1
    entropy: list[float]  # nats at T = 1
    stable_since: list[int]  # step (1-based) since which the argmax has not changed
    revisions: list[int]  # how often it changed after the first step
    steps: int


def result(canvas: FinalCanvas, tokenizer: Tokenizer, *, eos: set[int], vocab_size: int) -> SegmentResult:
    """Text up to the first end token; confidences and signals over those tokens only, the end-token tail excluded.

    A word's confidence is the lowest T = 1 probability among its tokens; the utterance's is the mean over its words, or
    for empty text the probability of the end token. Entropies are normalised by log(vocabulary): in [0, 1].
    """
    length = len(canvas.tokens)
    end = next((i for i, token in enumerate(canvas.tokens) if token in eos), length)
    overflow = end == length
    spoken = slice(0, end)
    text = str(tokenizer.decode(canvas.tokens[spoken], skip_special_tokens=True)).strip()
    words = words_with_confidence(canvas.tokens[spoken], canvas.probability[spoken], tokenizer)
    if words:
        confidence = sum(float(word["confidence"]) for word in words) / len(words)
    else:
        confidence = canvas.probability[min(end, length - 1)]
    counted = slice(0, max(end, 1))
    probability = canvas.probability[counted]
    entropy = [min(1.0, max(0.0, e / math.log(vocab_size))) for e in canvas.entropy[counted]]
    signals: dict[str, float | None] = {
        "token_probability_mean": _mean(probability),
        "token_probability_min": min(probability),
        "entropy_mean": _mean(entropy),
        "entropy_max": max(entropy),
        "first_stable_step_mean": _mean(canvas.stable_since[counted]),
        "revisions": float(sum(canvas.revisions[counted])),
        "ctc_score": None,
    }
    return SegmentResult(
        text=text,
        confidence=min(1.0, max(0.0, confidence)),
        words=words,
        signals=signals,
        steps=canvas.steps,
        canvas_length=length,
        canvas_fill=end / length,
        overflow=overflow,
    )


def words_with_confidence(
    tokens: list[int], probability: list[float], tokenizer: Tokenizer
) -> list[dict[str, str | float]]:
    """Words at white space; Han characters stand alone. Each has the lowest probability of the tokens that spell it."""
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    words: list[dict[str, str | float]] = []
    joined = False  # whether the next character continues the last word
    for character, p in zip(text, _per_character(tokens, probability, tokenizer), strict=True):
        if character.isspace():
            joined = False
            continue
        han = unicodedata.name(character, "").startswith("CJK UNIFIED")
        if joined and not han:
            word = words[-1]
            words[-1] = {"text": f"{word['text']}{character}", "confidence": min(float(word["confidence"]), p)}
        else:
            words.append({"text": character, "confidence": p})
        joined = not han
    return words


def _per_character(tokens: list[int], probability: list[float], tokenizer: Tokenizer) -> list[float]:
    """Lowest probability of the tokens behind each character of the decoded text, by decoding ever longer prefixes.

    Characters spelled by a run of byte tokens share the run's lowest: the decoder takes such a run as a whole, and what
    it has of it so far, if no character yet, stands at the end of the prefix as U+FFFD.
    """
    lowest: list[float] = []
    run = 1.0
    for count, p in enumerate(probability, start=1):
        decoded = str(tokenizer.decode(tokens[:count], skip_special_tokens=True))
        settled = len(decoded.rstrip("\ufffd"))
        run = min([run, *lowest[settled:]])
        new = decoded[len(lowest) : settled]
        bytes_before = len(new) - len(new.lstrip("\ufffd"))
        lowest = (
            lowest[:settled] + [run] * bytes_before + [p if bytes_before else min(run, p)] * (len(new) - bytes_before)
        )
        if settled < len(decoded):
            run = min(run, p)
        elif new:
            run = 1.0
    return lowest + [run] * (len(decoded) - len(lowest)) if tokens else []


def _mean(values: list[float] | list[int]) -> float:
    return sum(values) / len(values)
