"""Synthesise a corpus of spoken phrases for training or evaluation: Parquet shards, reproducible, resumable."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.tiny.augment import augment, clean, joined, trim
from infra.tiny.phrases import is_evaluation, item, phrase, short_word, vocabulary
from infra.tiny.voices import ENGINES, EngineError, Voice, check_engines, pick_voice, speak
from pipeline.audio.pcm import to_pcm
from pipeline.config import LANGUAGES, ConfigError
from pipeline.schemas import SAMPLE_RATE

log = logging.getLogger(__name__)

MAX_SECONDS = 5.7  # what is longer than the window of 5.12 s is not trained on, and loses its end in the evaluation
SHARD_PER_LANGUAGE = 83  # 83 x 6 languages = 498 utterances
MAX_ATTEMPTS = 50  # engine failures and phrases that are too long, per utterance
SINGLE_SHARE, PAUSE_SHARE = 0.10, 0.15  # of the training utterances: a single word; two phrases with a pause between
PAUSE_SECONDS = (0.3, 1.2)

Split = Literal["train", "evaluation"]
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("language", pa.string()),
        ("voice", pa.string()),  # engine:name
        ("text", pa.string()),
        ("pcm", pa.binary()),  # mono, 16 kHz, int16 little-endian
        ("seconds", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a call of `synthesise` made. Shards of an earlier call count in `shards_kept` alone."""

    shards: int
    shards_kept: int
    utterances: int
    seconds: float
    engine_failures: int
    too_long: int


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard: the utterances numbered start to stop of every language."""

    path: Path
    split: Split
    start: int
    stop: int
    seed: int
    languages: tuple[str, ...]
    engines: tuple[str, ...]
    short_share: float = 0.0

    @property
    def recipe(self) -> dict[bytes, bytes]:
        """What decides the content. It stands in the file, so that shards of two recipes are never mixed."""
        kinds = " kinds=2" if self.split == "train" else ""  # single words, pauses
        kinds += f" short={self.short_share}" if self.short_share else ""
        text = f"{self.split} {self.start}-{self.stop} seed={self.seed} {self.languages} {self.engines}{kinds}"
        return {b"recipe": text.encode()}


def synthesise(
    folder: Path,
    *,
    split: Split,
    per_language: int,
    seed: int,
    workers: int,
    languages: tuple[str, ...] = LANGUAGES,
    engines: tuple[str, ...] = ENGINES,
    short_share: float = 0.0,
) -> Summary:
    """Write FOLDER/part-00000.parquet and so on, with the columns of SCHEMA and the languages in turn.

    The two splits share no voice and no text. The training split is augmented; the evaluation split is clean and has a
    text once per shard. An existing shard stays; it is made again only where a larger `per_language` lengthens it.

    Args:
        folder: of the shards.
        split: "train" or "evaluation".
        per_language: utterances of each language.
        seed: decides phrases, voices and augmentation.
        workers: processes that synthesise.
        languages: some of LANGUAGES.
        engines: some of voices.ENGINES.
        short_share: of the training utterances, which are one word of about one syllable.

    Raises:
        ConfigError: an engine is not installed, or the folder has shards of another recipe.
    """
    check_engines(languages, held_out=split == "evaluation", engines=engines)
    folder.mkdir(parents=True, exist_ok=True)
    plans = [
        ShardPlan(
            folder / f"part-{number:05d}.parquet",
            split,
            start,
            min(start + SHARD_PER_LANGUAGE, per_language),
            seed,
            tuple(languages),
            tuple(engines),
            short_share if split == "train" else 0.0,
        )
        for number, start in enumerate(range(0, per_language, SHARD_PER_LANGUAGE))
    ]
    todo = [plan for plan in plans if not _is_done(plan)]
    made = [Summary(0, len(plans) - len(todo), 0, 0.0, 0, 0)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for shard in pool.map(write_shard, todo):
            made.append(shard)
            utterances = sum(one.utterances for one in made)
            log.info("%s: %d/%d shards, %d utterances", split, len(made) - 1, len(todo), utterances)
    return Summary(
        sum(one.shards for one in made),
        made[0].shards_kept,
        sum(one.utterances for one in made),
        sum(one.seconds for one in made),
        sum(one.engine_failures for one in made),
        sum(one.too_long for one in made),
    )


def write_shard(plan: ShardPlan) -> Summary:
    """Synthesise one shard and write it whole or not at all."""
    rows: list[dict[str, object]] = []
    seen: set[str] = set()
    counts = {"engine_failures": 0, "too_long": 0}
    for number in range(plan.start, plan.stop):
        for language in plan.languages:
            rows.append(_utterance(plan, language, number, seen, counts))
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata(plan.recipe))
    temporary = plan.path.with_suffix(f".tmp-{os.getpid()}")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(plan.path)
    return Summary(1, 0, len(rows), float(sum(table["seconds"].to_pylist())), **counts)


def _utterance(
    plan: ShardPlan, language: str, number: int, seen: set[str], counts: dict[str, int]
) -> dict[str, object]:
    """Make one row. (seed, split, language, number) decide everything random."""
    evaluation = plan.split == "evaluation"
    name = f"{plan.split}-{language}-{number:06d}"
    key = hashlib.sha256(f"{plan.seed} {name}".encode()).digest()
    rng, noise_rng = random.Random(key), np.random.default_rng(list(key))
    voice_of = partial(pick_voice, language, rng, held_out=evaluation, engines=plan.engines)
    for text, _ in zip(_texts(language, rng, plan.split, seen), range(MAX_ATTEMPTS), strict=False):
        voice = voice_of()
        try:
            if evaluation:
                samples = clean(*speak(voice, text, rng))
            else:
                text, speech, rate = _training_speech(plan, voice, language, text, rng)
                samples = augment(speech, rate, noise_rng)
        except EngineError:
            counts["engine_failures"] += 1
            continue
        if len(samples) > MAX_SECONDS * SAMPLE_RATE:
            counts["too_long"] += 1
            continue
        if evaluation:
            seen.add(text)
        pcm = to_pcm(samples)
        seconds = len(samples) / SAMPLE_RATE
        return {"id": name, "language": language, "voice": str(voice), "text": text, "pcm": pcm, "seconds": seconds}
    raise RuntimeError(f"{name}: no utterance in {MAX_ATTEMPTS} attempts; do the engines work?")


def _training_speech(
    plan: ShardPlan, voice: Voice, language: str, text: str, rng: random.Random
) -> tuple[str, np.ndarray, int]:
    """The text of an utterance, its speech [samples] and its sample rate. One of the kinds by their shares.

    Raises EngineError.
    """
    if plan.short_share and rng.random() < plan.short_share:
        text = short_word(language, rng)
        return text, *speak(voice, text, rng)
    kind = rng.random()
    if kind < SINGLE_SHARE:
        text = item(language, rng)
    elif kind < SINGLE_SHARE + PAUSE_SHARE:
        first, second = (item(language, rng), text) if rng.random() < 0.5 else (text, item(language, rng))
        both = f"{first}{vocabulary(language).joiner}{second}"
        if not is_evaluation(both):
            (one, rate), (two, _) = speak(voice, first, rng), speak(voice, second, rng)
            return both, joined(trim(one, rate), trim(two, rate), rng.uniform(*PAUSE_SECONDS), rate), rate
    return text, *speak(voice, text, rng)


def _texts(language: str, rng: random.Random, split: Split, seen: set[str]) -> Iterator[str]:
    """Phrases of one split, without end."""
    while True:
        text = phrase(language, rng)
        if is_evaluation(text) == (split == "evaluation") and text not in seen:
            yield text


def _is_done(plan: ShardPlan) -> bool:
    """Whether the shard is complete. A shorter one of the same recipe is not. Raises ConfigError for another recipe."""
    if not plan.path.exists():
        return False
    recipe = (pq.read_schema(plan.path).metadata or {}).get(b"recipe", b"unknown")
    if recipe == plan.recipe[b"recipe"]:
        return True
    rows = pq.read_metadata(plan.path).num_rows
    shorter = replace(plan, stop=plan.start + rows // len(plan.languages))
    if shorter.stop < plan.stop and recipe == shorter.recipe[b"recipe"]:
        return False
    raise ConfigError(f"{plan.path}: made by another recipe ({recipe.decode()}); use a new folder")
