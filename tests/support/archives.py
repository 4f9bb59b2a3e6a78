"""Small archives of noise, and the settings of a run over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from pipeline.config import RunConfig
from pipeline.config_file import load
from pipeline.schemas import SAMPLE_RATE


def wav(path: Path, seconds: float, seed: int = 0) -> int:
    """Write noise, 16 bit, 16 kHz, mono; each seed gives another. Returns the number of samples."""
    samples = np.random.default_rng(seed).integers(-8000, 8000, round(seconds * SAMPLE_RATE), dtype=np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    return len(samples)


def archive(root: Path, recordings: int, *, seconds: float = 2.5) -> Path:
    """Write files r000.wav, r001.wav, ... of about `seconds`, each of another length. Returns `root`."""
    for number in range(recordings):
        wav(root / f"r{number:03d}.wav", seconds + number / 100, number)
    return root


def settings(source: Path, output: Path, model: Path, *overrides: str) -> RunConfig:
    """Return settings without voice activity detection (the audio is noise), with few steps and small units."""
    return load(RunConfig, None, [*arguments(source, output, model), *overrides])


def arguments(source: Path, output: Path, model: Path) -> list[str]:
    """Return the same settings as words of a command line."""
    return [
        f"source.uri={source}",
        "source.format=files",
        "source.language=en",
        f"output.uri={output}",
        f"model.name={model}",
        "model.device=cpu",
        "denoise.max_steps=4",
        "segment.vad=false",
        "compute.canvases=8",
        "plan.unit_recordings=4",
        "budget.max_dead_fraction=1",
    ]
