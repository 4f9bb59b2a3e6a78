"""From the final canvas of a segment to its text, its words with confidence, and its signals."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

from tokenizers import Tokenizer

from pipeline.schemas import SegmentResult


@dataclass(frozen=True, slots=True)
class FinalCanvas:
    """The last step of one row. Each list has one entry per canvas position."""

    tokens: list[int]  # argmax
    probability: list[float]  # of that token at T = 1
    entropy: list[float]  # nats at T = 1
    stable_since: list[int]  # step since which the argmax has not changed; the first step is 1
    revisions: list[int]  # how often it changed after the first step
    steps: int


def result(canvas: FinalCanvas, tokenizer: Tokenizer, *, eos: set[int], vocab_size: int) -> SegmentResult:
    """Text up to the first end token. Confidences and signals count the tokens of that text only.

    A word's confidence is the lowest T = 1 probability of its tokens. The segment's confidence is the mean of its
    words', or the probability of the end token where the text is empty. Entropies are divided by log(vocabulary), so
    they are in [0, 1]. eos: ids of the end tokens.
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
    """Words between white space, each Han character alone, with the lowest probability of their tokens."""
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    words: list[dict[str, str | float]] = []
    joined = False  # whether the next character belongs to the last word
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
    """For each character of the text, the lowest probability of the tokens that spell it.

    It finds them by turning longer and longer prefixes of the tokens into text. Characters that a run of byte tokens
    spells share the lowest probability of the run. Bytes that are no whole character yet stand at the end of a
    prefix's text as U+FFFD.
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
