"""The embedded model's times of words, on speech whose borders are known: words spoken one by one, then joined."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
import soxr

from infra.tiny.augment import SPEECH_DBFS, to_level, trim
from infra.tiny.phrases import vocabulary
from infra.tiny.voices import Voice, speak, voices
from pipeline.audio.pcm import to_pcm
from pipeline.config import LANGUAGES, DenoiseConfig
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint
from pipeline.schemas import SAMPLE_RATE, Segment, Word
from tests.support.speech_engines import install_espeak

PER_LANGUAGE = 20
GAP_SECONDS, EDGE_SECONDS, MOST_SECONDS = 0.02, 0.15, 5.1
NEAR_MS = 120


class Joined(NamedTuple):
    """Words with their true times in milliseconds, and their sound."""

    language: str
    words: list[str]
    times: list[tuple[float, float]]
    pcm: bytes


def joined(language: str, voice: Voice, rng: random.Random) -> Joined:
    words = [rng.choice([item for item in vocabulary(language).others if " " not in item]) for _ in range(3)]
    gap, edge = (np.zeros(round(seconds * SAMPLE_RATE), np.float32) for seconds in (GAP_SECONDS, EDGE_SECONDS))
    speed = rng.random()
    sound, times = [edge], []
    for word in words:
        samples, rate = speak(voice, word, random.Random(speed))
        spoken = soxr.resample(trim(samples, rate), rate, SAMPLE_RATE)
        start = sum(map(len, sound)) * 1000 / SAMPLE_RATE
        times.append((start, start + len(spoken) * 1000 / SAMPLE_RATE))
        sound += [spoken, gap]
    return Joined(language, words, times, to_pcm(to_level(np.concatenate([*sound, edge]), SPEECH_DBFS)))


@pytest.fixture(scope="module")
def speech() -> list[Joined]:
    install_espeak()
    made = []
    for language in LANGUAGES:
        rng = random.Random(language)
        held_out = voices(language, held_out=True, engines=("espeak",))["espeak"]
        for _ in range(PER_LANGUAGE):
            one = joined(language, rng.choice(held_out), rng)
            if one.times[-1][1] <= 1000 * (MOST_SECONDS - EDGE_SECONDS):
                made.append(one)
    return made


def aligned(one: Joined, words: list[Word]) -> list[tuple[int | None, int | None]] | None:
    """The times of the words that were spoken; None where others were recognised. Mandarin: of all its characters."""
    if "".join(word["text"] for word in words) != "".join(one.words):
        return None
    found, place = [], 0
    for word in one.words:
        count = len(word) if one.language == "zh" else 1
        if one.language != "zh" and words[place]["text"] != word:
            return None
        found.append((words[place]["start_ms"], words[place + count - 1]["end_ms"]))
        place += count
    return found


def test_nine_in_ten_borders_are_within_120_ms(speech: list[Joined]) -> None:
    engine = Engine(checkpoint.load("tiny"), DenoiseConfig(), slots=16)
    results = engine.transcribe([Segment(str(number), one.language, one.pcm) for number, one in enumerate(speech)])
    engine.close()
    errors = [
        abs(edge - true)
        for one, result in zip(speech, results, strict=True)
        for found, wanted in zip(aligned(one, result.words) or [], one.times, strict=False)
        for edge, true in zip(found, wanted, strict=True)
        if edge is not None
    ]
    assert len(errors) >= 150  # of words that were recognised, two borders each
    near = sum(error <= NEAR_MS for error in errors) / len(errors)
    print(f"{near:.1%} of {len(errors)} borders within {NEAR_MS} ms, median {np.median(errors):.0f} ms")
    assert near >= 0.9
