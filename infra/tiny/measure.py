"""Error rates of the embedded model on held-out voices and phrases, with the production engine, and its model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jiwer
import pyarrow as pa
import pyarrow.parquet as pq

from infra.tiny.phrases import vocabulary
from infra.tiny.recipe import TrainConfig
from pipeline.config import LANGUAGES, DenoiseConfig
from pipeline.model.denoise.engine import Engine
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment
from pipeline.training.schedule import Changes, told

LANGUAGE_NAMES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "hi": "Hindi", "zh": "Mandarin"}


@dataclass(frozen=True, slots=True)
class Rate:
    """Errors over reference units: words, for Mandarin characters."""

    errors: int
    units: int
    utterances: int

    @property
    def percent(self) -> float:
        return 100.0 * self.errors / max(1, self.units)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Rates per language, over all, and over all with the audio shuffled."""

    languages: dict[str, Rate]
    overall: Rate
    shuffled: Rate
    steps_mean: float


def measure(model: AsrModel, corpus: Path, denoise: DenoiseConfig, *, slots: int = 16) -> Measurement:
    """Transcribe every utterance of a synthesised corpus folder. Raises FileNotFoundError where it is empty.

    Shuffled: each text is scored against the answer to the next utterance of the same language (grounding test).
    """
    shards = sorted(corpus.glob("*.parquet"))
    if not shards:
        raise FileNotFoundError(f"{corpus}: no utterances")
    table = pa.concat_tables(pq.read_table(shard, columns=["id", "language", "text", "pcm"]) for shard in shards)
    rows = table.to_pylist()
    limit = model.config.window_samples * 2
    engine = Engine(model, denoise, slots=slots)
    results = engine.transcribe([Segment(row["id"], row["language"], row["pcm"][:limit]) for row in rows])
    engine.close()
    languages, shuffled = {}, Rate(0, 0, 0)
    for language in [code for code in LANGUAGES if any(row["language"] == code for row in rows)]:
        picked = [i for i, row in enumerate(rows) if row["language"] == language]
        references = [rows[i]["text"] for i in picked]
        answers = [results[i].text or "" for i in picked]
        languages[language] = rate(references, answers, language)
        moved = rate(references, [*answers[1:], answers[0]], language)
        shuffled = Rate(
            shuffled.errors + moved.errors, shuffled.units + moved.units, shuffled.utterances + moved.utterances
        )
    rates = languages.values()
    overall = Rate(sum(r.errors for r in rates), sum(r.units for r in rates), sum(r.utterances for r in rates))
    return Measurement(languages, overall, shuffled, sum(r.steps for r in results) / len(results))


def rate(references: list[str], hypotheses: list[str], language: str) -> Rate:
    """Corpus-level WER; for Mandarin CER on text without spaces."""
    if language == "zh":
        references = [text.replace(" ", "") for text in references]
        hypotheses = [text.replace(" ", "") for text in hypotheses]
        counts: jiwer.WordOutput | jiwer.CharacterOutput = jiwer.process_characters(references, hypotheses)
    else:
        counts = jiwer.process_words(references, hypotheses)
    errors = counts.substitutions + counts.deletions + counts.insertions
    return Rate(errors, counts.hits + counts.substitutions + counts.deletions, len(references))


def table(measurement: Measurement) -> str:
    """A Markdown table of the rates."""
    lines = ["| language | metric | error rate | errors / units | utterances |", "| --- | --- | --- | --- | --- |"]
    for language, r in measurement.languages.items():
        metric = "CER" if language == "zh" else "WER"
        name = LANGUAGE_NAMES[language]
        lines.append(f"| {name} | {metric} | {r.percent:.1f} % | {r.errors} / {r.units} | {r.utterances} |")
    o, s = measurement.overall, measurement.shuffled
    lines.append(f"| all | WER and CER | {o.percent:.1f} % | {o.errors} / {o.units} | {o.utterances} |")
    lines.append(f"| all, audio shuffled | WER and CER | {s.percent:.1f} % | {s.errors} / {s.units} | {s.utterances} |")
    return "\n".join(lines)


def card(measurement: Measurement, config: TrainConfig, steps: int, rescheduled: Changes, command: str) -> str:
    """MODEL_CARD.md: what the model is, what it was trained on, its figures and the command that made it."""
    p, c, s = config.phases, config.corpus, config.size
    counts = {LANGUAGE_NAMES[code]: len(vocabulary(code).words()) for code in LANGUAGES}
    words = ", ".join(f"{name} {count}" for name, count in counts.items())
    changes = told(rescheduled)
    also = f", and those of {', '.join(config.also)}" if config.also else ""
    return f"""# tiny: the embedded model of fullcanvas

A demonstration-size speech recogniser in the architecture of diffusion-gemma-asr-small: the frozen encoder of
openai/whisper-base (multilingual, MIT licence), a convolutional projector, and a small backbone of transformers'
DiffusionGemma classes trained from scratch. It hears a **closed vocabulary** (numbers 0-99, weekdays, months, colours,
greetings and everyday words; different words: {words} characters; `infra/tiny/vocabulary/`)
and nothing else: other words come out as the nearest words it knows.

## Figures

Measured with the production engine (16 steps) on {measurement.overall.utterances} synthesised utterances of phrases and
VOICES that training never saw (espeak-ng Annie, Gene2, Hugo, Lee, Mario, klatt3, steph2, quincy; flite kal16; pico
en-GB). The kept voices of German, French, Spanish, Hindi and Mandarin are all espeak-ng variants; only English has
flite and pico ones.

{table(measurement)}

Mean denoising steps used: {measurement.steps_mean:.1f}. The last row is the grounding test: each text scored against
the answer to another utterance's audio. `python -m infra.tiny.human_speech_card` measures recorded people and adds its
table at the end of this card.

## Training

{c.train_per_language} synthesised phrases per language (espeak-ng, mbrola, pico, flite; noise, level, telephone band,
reverberation){also}; {steps} steps of batch {p.batch}: {p.ctc_steps} CTC, {p.autoregressive_steps} autoregressive,
{p.diffusion_steps} uniform diffusion with two-pass self-conditioning. Window {s.window_seconds} s, canvas
{s.canvas_length} tokens, hidden {s.hidden}, {s.layers} layers, {s.experts} experts. Seed {config.seed}.{changes}
Weights are the moving average, stored as float16.
{config.note}

    {command}
"""
