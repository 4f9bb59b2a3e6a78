"""float samples become int16 PCM and back, here and nowhere else."""

from __future__ import annotations

import numpy as np

FULL_SCALE = 1 << 15  # of int16: the samples -32768 ... 32767 are the floats -1 ... 1


def to_pcm(samples: np.ndarray) -> bytes:
    """float32 in [-1, 1] as int16, little-endian. Samples that were decoded from 16 bits get the same bits again."""
    return np.clip(np.rint(samples * np.float32(FULL_SCALE)), -FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()


def from_pcm(pcm: bytes | memoryview, length: int) -> np.ndarray:
    """int16 little-endian bytes as float32 [length] in [-1, 1), with zeros at the end. Raises ValueError if longer."""
    audio = np.frombuffer(pcm, "<i2")
    if len(audio) > length:
        raise ValueError(f"a segment of {len(audio)} samples does not fit the model's window of {length}")
    window = np.zeros(length, np.float32)
    window[: len(audio)] = audio.astype(np.float32) / FULL_SCALE
    return window
