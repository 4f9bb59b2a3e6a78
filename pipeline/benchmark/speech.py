"""The speech for benchmarks: the good recordings of the sample archive, repeated under other ids."""

from __future__ import annotations

import io
import math
import tarfile
from pathlib import Path

import numpy as np

from pipeline.audio import decode as audio
from pipeline.schemas import SAMPLE_RATE

SAMPLE = Path(__file__).parents[1] / "assets" / "sample"
SHARDS = ("shard-000.tar", "shard-001.tar", "shard-002.tar")  # the others have bad recordings on purpose


def members() -> list[tuple[str, bytes]]:
    """(name, content) of all recordings and sidecars of the shards, in order."""
    files = []
    for shard in SHARDS:
        with tarfile.open(SAMPLE / shard) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None:
                    files.append((f"{Path(shard).stem}/{member.name}", content.read()))
    return files


def sample_speech(seconds: float) -> np.ndarray:
    """float32 [samples] at 16 kHz, mono: the recordings one after the other, repeated until the length is reached."""
    return np.resize(np.concatenate(_decoded(members())), round(seconds * SAMPLE_RATE))


def write_archive(folder: Path, seconds: float) -> float:
    """Write WebDataset tars with at least `seconds` of audio to `folder`, one per repetition. Returns the seconds.

    The bytes are the same on every machine: the tars have no times and no owners.
    """
    files = members()
    once = sum(len(samples) for samples in _decoded(files))
    folder.mkdir(parents=True, exist_ok=True)
    repetitions = max(1, math.ceil(seconds * SAMPLE_RATE / once))
    for number in range(repetitions):
        with tarfile.open(folder / f"repeat-{number:04d}.tar", "w") as tar:
            for name, content in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return repetitions * once / SAMPLE_RATE


def _decoded(files: list[tuple[str, bytes]]) -> list[np.ndarray]:
    return [
        audio.decode_all(content, name=name, max_seconds=3600) for name, content in files if not name.endswith(".json")
    ]
