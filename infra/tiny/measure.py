"""Measure the embedded model on held-out voices and phrases with the production engine, and write its model card."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from infra.tiny.phrases import vocabulary
from infra.tiny.recipe import TrainConfig
from pipeline.config import LANGUAGES, DenoiseConfig
from pipeline.evaluation.result import Counts, headline
from pipeline.model.recogniser import AsrModel
from pipeline.training.evaluation import SetRates, evaluate
from pipeline.training.parallel import Group
from pipeline.training.resume import Changes, sentences

LANGUAGE_NAMES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "hi": "Hindi", "zh": "Mandarin"}


class Corpus:
    """A folder of synthesised utterances, as `pipeline.training.evaluation` takes recordings.

    An utterance that is longer than `window_samples` loses its end. Raises FileNotFoundError for an empty folder.
    """

    def __init__(self, folder: Path, window_samples: int) -> None:
        shards = sorted(folder.glob("*.parquet"))
        if not shards:
            raise FileNotFoundError(f"{folder}: no utterances")
        table = pa.concat_tables(pq.read_table(shard, columns=["id", "language", "text", "pcm"]) for shard in shards)
        self.keys: list[str] = table["id"].to_pylist()
        self.languages: list[Any] = table["language"].to_pylist()
        self.texts: list[str] = table["text"].to_pylist()
        self._pcm, self._bytes = table["pcm"], 2 * window_samples

    def __len__(self) -> int:
        return len(self.texts)

    def pcm(self, row: int) -> bytes:
        return self._pcm[row].as_py()[: self._bytes]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Rates of a corpus, and its utterances by language."""

    rates: SetRates
    utterances: dict[str, int]


def measure(model: AsrModel, folder: Path, denoise: DenoiseConfig, *, slots: int = 16) -> Measurement:
    """Transcribe and score every utterance of a corpus folder. Raises FileNotFoundError where it is empty."""
    corpus = Corpus(folder, model.config.window_samples)
    alone = Group(torch.device("cpu"))
    evaluated = evaluate(model, {"corpus": corpus}, denoise, slots=slots, group=alone, normal=as_spoken)
    return Measurement(evaluated.sets["corpus"], dict(Counter(corpus.languages)))


def as_spoken(text: str, language: str) -> str:
    """A text as the phrases are written: a number counts as its spoken words, Mandarin has no spaces."""
    return text.replace(" ", "") if language == "zh" else text


def table(measurement: Measurement) -> str:
    """A Markdown table of the rates."""
    rates, total = measurement.rates, sum(measurement.utterances.values())
    lines = ["| language | metric | error rate | errors / units | utterances |", "| --- | --- | --- | --- | --- |"]
    for language in LANGUAGES:
        if language in rates.languages:
            name, count = LANGUAGE_NAMES[language], measurement.utterances[language]
            lines.append(_row(name, headline(language), rates.languages[language], count))
    lines.append(_row("all", "WER and CER", rates.counts, total))
    lines.append(_row("all, audio shuffled", "WER and CER", rates.shuffled, total))
    return "\n".join(lines)


def _row(name: str, metric: str, counts: Counts, utterances: int) -> str:
    rate = 100 * (counts.rate or 0.0)
    return f"| {name} | {metric} | {rate:.1f} % | {counts.errors} / {counts.units} | {utterances} |"


def card(measurement: Measurement, config: TrainConfig, steps: int, rescheduled: Changes, command: str) -> str:
    """Write MODEL_CARD.md: what the model is, what it was trained on, its figures, the command that made it."""
    p, c, s = config.phases, config.corpus, config.size
    rates, utterances = measurement.rates, sum(measurement.utterances.values())
    counts = {LANGUAGE_NAMES[code]: len(vocabulary(code).words()) for code in LANGUAGES}
    words = ", ".join(f"{name} {count}" for name, count in counts.items())
    changes = sentences(rescheduled)
    shares = [
        f"{one.projector:g} of the projector and {one.backbone:g} of the backbone of {one.of}" for one in config.shares
    ]
    blend = f", mixed with {'; '.join(shares)}" if shares else ""
    also = f", and those of {', '.join(config.also)}" if config.also else ""
    return f"""# tiny: the embedded model of fullcanvas

A demonstration-size speech recogniser in the architecture of diffusion-gemma-asr-small: the frozen encoder of
openai/whisper-base (multilingual, MIT licence), a convolutional projector, and a small backbone of transformers'
DiffusionGemma classes trained from scratch. It recognises a **closed vocabulary** (numbers 0-99, weekdays, months,
colours, greetings and everyday words; different words: {words} characters; `infra/tiny/vocabulary/`)
and nothing else: other words come out as the nearest words it knows.

## Figures

Measured with the production engine (16 steps) on {utterances} synthesised utterances of phrases
and voices that training never saw (espeak-ng Annie, Gene2, Hugo, Lee, Mario, klatt3, steph2, quincy; flite kal16; pico
en-GB). The held-out voices of German, French, Spanish, Hindi and Mandarin are all espeak-ng variants; only English has
flite and pico ones.

{table(measurement)}

Mean denoising steps used: {rates.steps_mean:.1f}. The last row is the grounding test: each text scored against
the answer to another utterance's audio. `python -m infra.tiny.human_speech_card` measures recorded people and adds its
table at the end of this card.

## Training

{c.train_per_language} synthesised phrases per language (espeak-ng, mbrola, pico, flite; noise, level, telephone band,
reverberation){also}; {steps} steps of batch {p.batch}: {p.ctc_steps} CTC, {p.autoregressive_steps} autoregressive,
{p.diffusion_steps} uniform diffusion with two-pass self-conditioning. Window {s.window_seconds} s, canvas
{s.canvas_length} tokens, projector {s.projector_hidden}, hidden {s.hidden}, {s.layers} layers, {s.experts} experts.
Seed {config.seed}.{changes}
Weights are the moving average{blend}, stored as float16.
{config.note}

    {command}
"""
