"""Make speech that teaches the embedded model 30 new words of each language.

    python -m infra.tiny.make_new_words [folder [phrases per language]]

FOLDER/train has phrases with new words, and REHEARSAL times as many of the old vocabulary, so that the model does not
forget it; training voices, augmented. FOLDER/new and FOLDER/old have held-out phrases by held-out voices, which no
training has. All are Parquet sources, which configs/train-adapter-words.yaml reads.
"""

from __future__ import annotations

import io
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import yaml
from tokenizers import Tokenizer

from infra.tiny.augment import augment, clean
from infra.tiny.phrases import is_evaluation, phrase, vocabulary
from infra.tiny.voices import ENGINES, EngineError, check_engines, pick_voice, speak
from pipeline.config import LANGUAGES
from pipeline.model.files.layout import ASSETS, read_config
from pipeline.schemas import SAMPLE_RATE

log = logging.getLogger(__name__)

FOLDER, PER_LANGUAGE = Path("work/new-words"), 2000  # training phrases with new words
REHEARSAL = 1.5  # phrases of the old vocabulary for each of them
EVALUATED = 60  # phrases of either kind per language
SEED = 5
MAX_SECONDS = 4.8  # with the silence around; the window has 5.12
SCHEMA = pa.schema(
    [(name, pa.binary() if name == "audio" else pa.string()) for name in ("id", "audio", "text", "language", "voice")]
)

Phrase = Callable[[str, random.Random], str]


def new_words() -> dict[str, list[str]]:
    """Thirty words per language that the model's vocabulary lacks; Mandarin's are of characters that it has."""
    tree: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_name("new_words.yaml").read_text("utf-8"))
    for language, words in tree.items():
        table = vocabulary(language)
        known = {word for items in table.lists.values() for item in items for word in (item, *item.split())}
        if len(set(words)) != 30 or known & set(words):
            raise ValueError(f"{language}: {len(set(words))} different words, known already: {known & set(words)}")
    return tree


def new_phrase(language: str, rng: random.Random) -> str:
    """Draw one to three items in any order: at least one new word, the others new or old."""
    words, table = _WORDS[language], vocabulary(language)
    items = [rng.choice(words)]
    for _ in range(rng.choices((0, 1, 2), (3, 4, 3))[0]):
        items.append(rng.choice(words if rng.random() < 0.4 else table.others))
    rng.shuffle(items)
    return table.joiner.join(items)


def rows(
    name: str, count: int, of: Phrase, *, held_out: bool, engines: tuple[str, ...] = ENGINES
) -> Iterator[dict[str, Any]]:
    """Speak `count` phrases of every language; held-out phrases differ from each other. Yields rows of SCHEMA."""
    tokenizer = Tokenizer.from_file(str(ASSETS / "tiny" / "tokenizer.json"))
    canvas = read_config(ASSETS / "tiny").canvas_length
    for language in LANGUAGES:
        rng, noise = random.Random(f"{SEED} {name} {language}"), np.random.default_rng([SEED, held_out, len(name)])
        seen: set[str] = set()
        number = 0
        while number < count:
            text = of(language, rng)
            fits = len(tokenizer.encode(text, add_special_tokens=False).ids) < canvas
            if is_evaluation(text) != held_out or not fits or (held_out and text in seen):
                continue
            voice = pick_voice(language, rng, held_out=held_out, engines=engines)
            try:
                samples, rate = speak(voice, text, rng)
            except EngineError:
                continue
            samples = clean(samples, rate) if held_out else augment(samples, rate, noise)
            if len(samples) > MAX_SECONDS * SAMPLE_RATE:
                continue
            seen.add(text)
            out = io.BytesIO()
            soundfile.write(out, samples, SAMPLE_RATE, format="FLAC")
            yield {
                "id": f"{name}-{language}-{number:05d}",
                "audio": out.getvalue(),
                "text": text,
                "language": language,
                "voice": str(voice),
            }
            number += 1
        log.info("%s: %s: %d phrases", name, language, number)


def write(path: Path, count: int, of: Phrase, *, held_out: bool) -> None:
    """Write a file of phrases, whole or not at all. An existing file stays."""
    if path.exists():
        log.info("%s: kept", path)
        return
    name = path.stem if held_out else f"train-{path.stem}"
    made = list(rows(name, count, of, held_out=held_out))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # a process that a killed call left may write the same file
    pq.write_table(pa.Table.from_pylist(made, SCHEMA), temporary, row_group_size=64)
    temporary.replace(path)


def main(folder: Path, per_language: int) -> None:
    """Write all four files, two at a time. Raises SystemExit where a file exists with another number of phrases."""
    rehearsal = int(per_language * REHEARSAL)
    files: list[tuple[str, int, Phrase, bool]] = [
        ("new/new.parquet", EVALUATED, new_phrase, True),
        ("train/new.parquet", per_language, new_phrase, False),
        ("old/old.parquet", EVALUATED, phrase, True),
        ("train/old.parquet", rehearsal, phrase, False),
    ]
    for name, count, _, _ in files:
        path, wanted = folder / name, count * len(LANGUAGES)
        if path.exists() and (there := pq.read_metadata(path).num_rows) != wanted:
            raise SystemExit(f"{path}: has {there} phrases, not {wanted}: delete it or name a new folder")
    for held_out in (False, True):
        check_engines(LANGUAGES, held_out=held_out)
    with ProcessPoolExecutor(2) as pool:
        jobs = [pool.submit(write, folder / name, count, of, held_out=held_out) for name, count, of, held_out in files]
        for job in jobs:
            job.result()


_WORDS = new_words()

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = sys.argv[1:]
    main(Path(given[0]) if given else FOLDER, int(given[1]) if len(given) > 1 else PER_LANGUAGE)
