"""Whisper-base beside faster-whisper's int8: the same weights, the same clips, one run, one thread, processor time.

Both decode greedily, try again at the same temperatures, condition no text on an earlier one and give times of words.
faster-whisper is in `.venv/bench` (requirements-bench.lock); its model is converted from the embedded weights.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline.audio import decode
from pipeline.audio.pcm import to_pcm
from pipeline.benchmark.decoding import PACKAGES
from pipeline.config import DecodeConfig
from pipeline.evaluation.result import Counts, headline
from pipeline.evaluation.score import char_counts, word_counts
from pipeline.model.files import layout, whisper_layout
from pipeline.model.number_type import torch_type
from pipeline.model.whisper import recogniser
from pipeline.schemas import SAMPLE_RATE, Segment
from pipeline.text.normalise_multilingual import multilingual

NAME = "whisper-base"
BATCH = 16  # segments, the default of compute.canvases
FEATURES = (
    '{"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "hop_length": 160, "n_fft": 400, '
    '"chunk_length": 30, "n_samples": 480000, "nb_max_frames": 3000, "sampling_rate": 16000, "padding_value": 0.0}'
)

Transcribe = Callable[[list["Clip"]], list[str]]


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording with what is said in it. samples: float32 at 16 kHz."""

    language: str
    text: str
    samples: np.ndarray


def read_clips(path: Path, most: int) -> list[Clip]:
    """Up to `most` clips of each language, evenly over the file, which infra.tiny.human_speech writes."""
    rows = pq.read_table(path, columns=["id", "audio", "text", "language"]).to_pylist()
    clips = []
    for language in dict.fromkeys(row["language"] for row in rows):
        own = [row for row in rows if row["language"] == language]
        for at in np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int).tolist():
            samples = decode.decode_all(own[at]["audio"], name=own[at]["id"], max_seconds=30)
            clips.append(Clip(language, own[at]["text"], samples))
    return clips


def compare(clips: list[Clip]) -> dict[str, Any]:
    """Errors, units of the references and processor seconds of both, on one thread."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"audio_seconds": sum(len(clip.samples) for clip in clips) / SAMPLE_RATE}
    with tempfile.TemporaryDirectory() as scratch:
        for name, transcribe in (("fullcanvas", _ours()), ("faster-whisper int8", _theirs(Path(scratch)))):
            transcribe(clips[:1])
            before = time.process_time()
            texts = transcribe(clips)
            seconds = time.process_time() - before
            figures[name] = {"seconds": seconds, "errors": dict(_errors(clips, texts))}
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures in Markdown."""
    ours = [name for name in figures if name != "audio_seconds"]
    languages = list(figures[ours[0]]["errors"])
    lines = [
        f"| engine | times real time | {' | '.join(languages)} | all |",
        f"| --- | {' | '.join(['---'] * (len(languages) + 2))} |",
    ]
    for name in ours:
        errors = figures[name]["errors"]
        total = [sum(of[part] for of in errors.values()) for part in (0, 1)]
        cells = [f"{100 * wrong / units:.1f} % of {units}" for wrong, units in [*errors.values(), total]]
        speed = figures["audio_seconds"] / figures[name]["seconds"]
        lines.append(f"| {name} | {speed:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _errors(clips: list[Clip], texts: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """For each language: errors and units of the references; words, of Mandarin characters."""
    for language in dict.fromkeys(clip.language for clip in clips):
        total = Counts()
        for clip, text in zip(clips, texts, strict=True):
            if clip.language == language:
                said, found = multilingual(clip.text), multilingual(text)
                is_cer = headline(language) == "CER"
                total += char_counts(_joined(said), _joined(found)) if is_cer else word_counts(said, found)
        yield language, (total.errors, total.units)


def _joined(text: str) -> str:
    return "".join(text.split())


def _ours() -> Transcribe:
    model = recogniser.load(NAME, dtype=torch_type("auto", "cpu", is_whisper=True), decode=DecodeConfig())

    def transcribe(clips: list[Clip]) -> list[str]:
        segments = [Segment("clip", clip.language, to_pcm(clip.samples)) for clip in clips]
        results = [one for at in range(0, len(segments), BATCH) for one in model.recognise(segments[at : at + BATCH])]
        return [(result.text or "") if result else "" for result in results]

    return transcribe


def _theirs(folder: Path) -> Transcribe:
    sys.path.append(str(PACKAGES))
    from ctranslate2.converters import TransformersConverter
    from faster_whisper import WhisperModel

    source = layout.directory(NAME)
    recogniser.load(NAME).model.save_pretrained(folder / "float32")
    for name in (whisper_layout.CONFIG, whisper_layout.GENERATION, whisper_layout.TOKENIZER):
        shutil.copy(source / name, folder / "float32" / name)
    (folder / "float32/preprocessor_config.json").write_text(FEATURES)
    copied = [whisper_layout.TOKENIZER, "preprocessor_config.json"]
    TransformersConverter(str(folder / "float32"), copy_files=copied).convert(str(folder / "int8"), quantization="int8")
    model = WhisperModel(str(folder / "int8"), device="cpu", compute_type="int8", cpu_threads=1)

    def transcribe(clips: list[Clip]) -> list[str]:
        options = {"beam_size": 1, "word_timestamps": True, "condition_on_previous_text": False}
        return [
            " ".join(part.text.strip() for part in model.transcribe(clip.samples, language=clip.language, **options)[0])
            for clip in clips
        ]

    return transcribe
