"""The speech of infra.tiny.loop: an archive in which some recordings are defective, and clean held-out speech."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from infra.tiny.augment import SPEECH_DBFS, clean, to_level
from infra.tiny.make_new_words import new_words
from infra.tiny.phrases import is_evaluation, vocabulary
from infra.tiny.voices import ENGINES, TRAINING_VARIANTS, EngineError, Voice, pick_voice, speak
from pipeline.schemas import SAMPLE_RATE
from pipeline.training.augment import add_noise

log = logging.getLogger(__name__)

MAX_SECONDS = 5.0  # of a recording; the window has 5.12
LISTS = ("numbers", "weekdays", "months", "colours")  # of the vocabulary: few words, so that a student learns them soon
MAX_ITEMS = 4  # of a phrase
NOISY_SNR_DB = (-8.0, 0.0)
CUT_SHARE = (0.35, 0.6)  # of a recording that is left, from its middle: both ends are inside of words
# Everyday words of languages that the embedded model does not know, read by espeak-ng.
FOREIGN = {
    "it": "acqua albero amico bambino cuore domani finestra gatto giorno mangiare notte oggi parola pioggia ragazzo "
    "sempre sole strada tempo vento",
    "pl": "chleb czas dom drzewo droga dzień herbata jutro kobieta księżyc miasto mleko morze noc okno praca rzeka "
    "słońce szkoła zima",
    "sv": "arbete barn berg bok dag fönster gata hund kvinna lampa mjölk natt skog sjö sommar stad stjärna vatten "
    "vinter äpple",
    "tr": "ağaç araba arkadaş bahçe çocuk deniz ekmek ev gece güneş kapı kitap masa okul pencere sabah su şehir yol "
    "zaman",
}

Speech = tuple[str, str, np.ndarray]  # voice, what is said, float32 samples at 16 kHz
Maker = Callable[[str, random.Random, tuple[str, ...]], Speech]  # language, rng, engines


def phrase(language: str, rng: random.Random, *, held_out: bool) -> str:
    """Up to MAX_ITEMS items of LISTS in any order, on one side of the split. Two numbers are never neighbours."""
    table = vocabulary(language)
    while True:
        names = [rng.choice(LISTS)]
        while len(names) < MAX_ITEMS and rng.random() < 0.75:
            names.append(rng.choice(LISTS[1:] if names[-1] == "numbers" else LISTS))
        text = table.joiner.join(rng.choice(table.lists[name]) for name in names)
        if is_evaluation(text) == held_out:
            return text


def _spoken(voice: Voice, text: str, rng: random.Random) -> Speech:
    return str(voice), text, clean(*speak(voice, text, rng))


def _good(language: str, rng: random.Random, engines: tuple[str, ...]) -> Speech:
    voice = pick_voice(language, rng, held_out=False, engines=engines)
    return _spoken(voice, phrase(language, rng, held_out=False), rng)


def _held_out(language: str, rng: random.Random, engines: tuple[str, ...]) -> Speech:
    voice = pick_voice(language, rng, held_out=True, engines=engines)
    return _spoken(voice, phrase(language, rng, held_out=True), rng)


def _noisy(language: str, rng: random.Random, engines: tuple[str, ...]) -> Speech:
    voice, text, samples = _good(language, rng, engines)
    noise = np.random.default_rng(rng.randrange(2**32))
    loud = add_noise(samples, float(np.mean(samples**2)), rng.uniform(*NOISY_SNR_DB), noise)
    return voice, text, to_level(loud, SPEECH_DBFS)


def _cut(language: str, rng: random.Random, engines: tuple[str, ...]) -> Speech:
    voice, text, samples = _good(language, rng, engines)
    left = round(rng.uniform(*CUT_SHARE) * len(samples))
    start = (len(samples) - left) // 2
    return voice, text, samples[start : start + left]


def _foreign(_language: str, rng: random.Random, _engines: tuple[str, ...]) -> Speech:
    spoken = rng.choice(sorted(FOREIGN))
    variant = rng.choice(TRAINING_VARIANTS)
    return _spoken(Voice("espeak", f"{spoken}+{variant}"), _some(FOREIGN[spoken].split(), rng), rng)


def _mismatched(language: str, rng: random.Random, engines: tuple[str, ...]) -> Speech:
    voice = pick_voice(language, rng, held_out=False, engines=engines)
    return _spoken(voice, _some(new_words()[language], rng), rng)


def _some(words: list[str], rng: random.Random) -> str:
    return " ".join(rng.sample(words, rng.randint(2, MAX_ITEMS)))


GOOD = "good"
# foreign: of a language that the model does not know; mismatched: of words that it does not know.
DEFECTS: dict[str, Maker] = {"noisy": _noisy, "cut": _cut, "foreign": _foreign, "mismatched": _mismatched}
MAKERS: dict[str, Maker] = {GOOD: _good, **DEFECTS}


def kinds(count: int, share: float, rng: random.Random) -> list[str]:
    """The kind of each of `count` recordings: GOOD, or for `share` of them one of DEFECTS, as many of each."""
    bad = round(count * share)
    names = list(DEFECTS)
    listed = [names[number % len(names)] for number in range(bad)] + [GOOD] * (count - bad)
    rng.shuffle(listed)
    return listed


def recordings(
    name: str,
    languages: Sequence[str],
    per_language: int,
    *,
    defects: float,
    seed: int,
    held_out: bool = False,
    engines: tuple[str, ...] = ENGINES,
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yield rows of metadata.jsonl and float32 samples at 16 kHz.

    `kind` is one of MAKERS. `text` is what was said, of a cut recording before the cut. held_out: held-out phrases by
    held-out voices, all of them good and none twice.
    """
    for language in languages:
        rng = random.Random(f"{seed} {name} {language}")
        seen: set[str] = set()
        for number, kind in enumerate(kinds(per_language, defects, rng)):
            make = _held_out if held_out else MAKERS[kind]
            voice, text, samples = _one(make, language, rng, engines, seen)
            if held_out:
                seen.add(text)
            about = {"file_name": f"{language}-{number:05d}.flac", "text": text, "language": language}
            yield about | {"speaker": voice.split("+")[-1] if held_out else voice, "kind": kind}, samples


def _one(make: Maker, language: str, rng: random.Random, engines: tuple[str, ...], seen: set[str]) -> Speech:
    """The first recording that an engine gives, that fits the window and whose text is new."""
    while True:
        try:
            made = make(language, rng, engines)
        except EngineError:
            continue
        if len(made[2]) <= MAX_SECONDS * SAMPLE_RATE and made[1] not in seen:
            return made


def write(folder: Path, rows: Iterator[tuple[dict[str, Any], np.ndarray]]) -> None:
    """Write FLAC files and metadata.jsonl, whole or not at all. A folder that exists stays."""
    if folder.exists():
        return
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    lines = []
    for about, samples in rows:
        soundfile.write(temporary / about["file_name"], samples, SAMPLE_RATE)
        lines.append(json.dumps(about, ensure_ascii=False) + "\n")
        if len(lines) % 250 == 0:
            log.info("%s: %d recordings", folder, len(lines))
    (temporary / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    temporary.replace(folder)
