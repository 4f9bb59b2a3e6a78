"""Measure one way to read audio: `python -m pipeline.benchmark.readers READER REPEATS FILE...`.

Prints JSON: the reader's version; for each file the seconds of 16 kHz mono audio, and the processor seconds of the
fastest repeat. For a reader that is not installed it prints the error.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.schemas import SAMPLE_RATE

Read = Callable[[bytes], int]  # encoded bytes to the number of samples at 16 kHz, mono


def pipeline() -> tuple[Read, str]:
    """pipeline.audio.decode: PyAV and soxr, with all checks for damage."""
    from pipeline.audio import decode as audio

    return lambda data: len(audio.decode_all(data, name="bench", max_seconds=86_400)), _versions("av", "soxr")


def datasets() -> tuple[Read, str]:
    """`datasets.Audio`, as a column of a dataset decodes: torchcodec and FFmpeg's resampler."""
    import torchcodec  # noqa: F401 - otherwise datasets reports it missing only at the first file
    from datasets import Audio

    feature = Audio(sampling_rate=SAMPLE_RATE, num_channels=1)

    def read(data: bytes) -> int:
        return int(feature.decode_example({"bytes": data, "path": None}).get_all_samples().data.shape[1])

    return read, _versions("datasets", "torchcodec")


def librosa() -> tuple[Read, str]:
    """`librosa.load`: libsndfile and soxr."""
    import librosa

    return lambda data: len(librosa.load(io.BytesIO(data), sr=SAMPLE_RATE, mono=True)[0]), _versions(
        "librosa", "soundfile"
    )


READERS = {"pipeline": pipeline, "datasets": datasets, "librosa": librosa}


def measure(reader: str, repeats: int, files: list[Path]) -> dict[str, object]:
    """Measure `reader` on the files. Returns what this module prints. Raises KeyError for an unknown reader."""
    try:
        read, version = READERS[reader]()
    except (ImportError, OSError, RuntimeError) as err:  # torchcodec raises all three if FFmpeg is missing
        return {"reader": reader, "error": f"{type(err).__name__}: {' '.join(str(err).split())[:200]}"}
    rows = []
    for file in files:
        data = file.read_bytes()
        taken = []
        for _ in range(repeats):
            before = time.process_time()
            samples = read(data)
            taken.append(time.process_time() - before)
        rows.append({"file": file.name, "audio_seconds": samples / SAMPLE_RATE, "processor_seconds": min(taken)})
    return {"reader": reader, "version": version, "rows": rows}


def _versions(*packages: str) -> str:
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(sys.argv[1], int(sys.argv[2]), [Path(name) for name in sys.argv[3:]])) + "\n")
