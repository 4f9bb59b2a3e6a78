"""What the embedded model finds hard: sets of synthesised speech by held-out voices, one for each difficulty.

    python -m infra.tiny.probes [folder [model]]

The sets are made once and kept in FOLDER (work/probes). Prints a Markdown table of error rates, and how well the
confidence tells utterances of known words from those of unknown ones (AUROC).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.stats import mannwhitneyu

from infra.tiny.augment import SPEECH_DBFS, clean, joined, to_level, trim
from infra.tiny.make_new_words import new_words
from infra.tiny.measure import as_spoken
from infra.tiny.phrases import is_evaluation, item, phrase, short_words, vocabulary
from infra.tiny.voices import ENGINES, EngineError, Voice, pick_voice, speak
from pipeline.audio.pcm import to_pcm
from pipeline.config import LANGUAGES, DenoiseConfig
from pipeline.evaluation.result import Counts
from pipeline.evaluation.score import char_counts, word_counts
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint
from pipeline.schemas import SAMPLE_RATE, Segment, SegmentResult
from pipeline.training.augment import add_noise

PER_LANGUAGE = 20  # utterances of each set
MAX_SECONDS = 5.0
NAMES = ("id", "language", "voice", "text")
SCHEMA = pa.schema([*((name, pa.string()) for name in NAMES), ("pcm", pa.binary())])
Speech = tuple[str, np.ndarray]  # text, float32 samples at 16 kHz
Maker = Callable[[str, Voice, random.Random], Speech]


def _held_out(language: str, rng: random.Random) -> str:
    while True:
        text = phrase(language, rng)
        if is_evaluation(text):
            return text


def _plain(language: str, voice: Voice, rng: random.Random) -> Speech:
    text = _held_out(language, rng)
    return text, clean(*speak(voice, text, rng))


def _paused(language: str, voice: Voice, rng: random.Random) -> Speech:
    first, second = item(language, rng), item(language, rng)
    (one, rate), (two, _) = speak(voice, first, rng), speak(voice, second, rng)
    text = vocabulary(language).joiner.join([first, second])
    return text, clean(joined(trim(one, rate), trim(two, rate), rng.uniform(0.4, 1.0), rate), rate)


def _single(language: str, voice: Voice, rng: random.Random) -> Speech:
    text = rng.choice(short_words(language))
    return text, clean(*speak(voice, text, rng))


def _tempo(factor: float) -> Maker:
    def make(language: str, voice: Voice, rng: random.Random) -> Speech:
        text = _held_out(language, rng)
        samples, rate = speak(voice, text, rng)
        return text, clean(samples, round(rate * factor))

    return make


def _noisy(language: str, voice: Voice, rng: random.Random) -> Speech:
    text, samples = _plain(language, voice, rng)
    noise = np.random.default_rng(rng.randrange(2**32))
    return text, to_level(add_noise(samples, float(np.mean(samples**2)), 5.0, noise), SPEECH_DBFS)


@cache
def _unknown_characters() -> tuple[str, ...]:
    """The 3,755 common characters of GB 2312, without those of the vocabulary."""
    rows = (bytes((high, low)) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    characters = (row.decode("gb2312", errors="ignore") for row in rows)
    return tuple(sorted({character for character in characters if character} - vocabulary("zh").words()))


def _unknown(language: str, voice: Voice, rng: random.Random) -> Speech:
    """Real words that the vocabulary lacks; of Mandarin, characters that it lacks."""
    words = (
        [rng.choice(_unknown_characters()) for _ in range(4)]
        if language == "zh"
        else rng.sample(new_words()[language], 2)
    )
    text = vocabulary(language).joiner.join(words)
    return text, clean(*speak(voice, text, rng))


SETS: dict[str, Maker] = {
    "phrases": _plain,
    "a pause of 0.4 to 1 s": _paused,
    "one short word": _single,
    "1.25 times as fast": _tempo(1.25),
    "0.8 times as fast": _tempo(0.8),
    "noise, SNR 5 dB": _noisy,
    "unknown words": _unknown,
}


def make(folder: Path, *, per_language: int = PER_LANGUAGE, engines: tuple[str, ...] = ENGINES) -> None:
    """Write FOLDER/0.parquet and so on, one file for each of SETS. Existing files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, maker) in enumerate(SETS.items()):
        path = folder / f"{number}.parquet"
        if not path.exists():
            made = [row for language in LANGUAGES for row in rows(name, maker, language, per_language, engines)]
            pq.write_table(pa.Table.from_pylist(made, SCHEMA), path)


def rows(
    name: str, maker: Maker, language: str, count: int, engines: tuple[str, ...] = ENGINES
) -> Iterator[dict[str, Any]]:
    """Yield `count` utterances of the set `name` in a language, rows of SCHEMA. The same name gives the same speech."""
    rng = random.Random(f"{name} {language}")
    made = 0
    while made < count:
        try:
            voice = pick_voice(language, rng, held_out=True, engines=engines)
            text, samples = maker(language, voice, rng)
        except EngineError:
            continue
        if len(samples) <= MAX_SECONDS * SAMPLE_RATE:
            about = {"id": f"{name} {language} {made}", "language": language, "voice": str(voice), "text": text}
            yield about | {"pcm": to_pcm(samples)}
            made += 1


def measure(folder: Path, model: str) -> str:
    """Recognise all sets. Returns a Markdown table and the AUROC."""
    torch.set_num_threads(1)
    engine = Engine(checkpoint.load(model), DenoiseConfig(max_steps=16), slots=16)
    lines = ["| set | error rate | mean confidence | utterances |", "| --- | --- | --- | --- |"]
    confidence: dict[str, list[float]] = {}
    for number, name in enumerate(SETS):
        rows = pq.read_table(folder / f"{number}.parquet").to_pylist()
        results = engine.transcribe([Segment(row["id"], row["language"], row["pcm"]) for row in rows])
        confidence[name] = [result.confidence or 0.0 for result in results]
        rate = 100 * (_counts(rows, results).rate or 0.0)
        lines.append(f"| {name} | {rate:.1f} % | {np.mean(confidence[name]):.3f} | {len(rows)} |")
    engine.close()
    known, unknown = confidence["phrases"], confidence["unknown words"]
    auroc = mannwhitneyu(known, unknown).statistic / (len(known) * len(unknown))
    sure = np.mean([value > 0.9 for value in unknown])
    lines += ["", f"Known or unknown words by the confidence: AUROC {auroc:.3f}; {sure:.1%} of the unknown above 0.9."]
    return "\n".join(lines)


def _counts(rows: list[dict[str, Any]], results: list[SegmentResult]) -> Counts:
    total = Counts()
    for row, result in zip(rows, results, strict=True):
        language = row["language"]
        counts = char_counts if language == "zh" else word_counts
        total += counts(as_spoken(row["text"], language), as_spoken(result.text or "", language))
    return total


if __name__ == "__main__":
    given = sys.argv[1:]
    where = Path(given[0]) if given else Path("work/probes")
    make(where)
    print(measure(where, given[1] if len(given) > 1 else "tiny"))
