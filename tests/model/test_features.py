"""The log-mel spectrogram is Whisper's, and a row of a batch is computed as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from pipeline.model.network.features import LogMel
from pipeline.schemas import SAMPLE_RATE

WINDOW = 30 * SAMPLE_RATE


def noise(seed: int, seconds: float, level: float) -> np.ndarray:
    """A 30 s window with noise for `seconds` and zeros after it."""
    window = np.zeros(WINDOW, np.float32)
    length = round(seconds * SAMPLE_RATE)
    window[:length] = np.random.default_rng(seed).normal(size=length) * level
    return window


def tone(hertz: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(WINDOW) / SAMPLE_RATE)).astype(np.float32)


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize(
    "samples",
    [noise(0, 30, 0.1), noise(1, 4.3, 1e-4), tone(440.0), tone(7900.0), np.zeros(WINDOW, np.float32)],
    ids=["noise", "short and quiet", "tone", "high tone", "silence"],
)
def test_equals_transformers_feature_extractor(samples: np.ndarray, mels: int) -> None:
    theirs = WhisperFeatureExtractor(feature_size=mels)(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    ours = LogMel(mels)(torch.from_numpy(samples)[None])
    assert ours.shape == (1, mels, 3000)
    torch.testing.assert_close(ours, theirs.input_features, atol=1e-4, rtol=0)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    quiet, loud = noise(2, 1, 1e-3)[:SAMPLE_RATE], noise(3, 1, 0.9)[:SAMPLE_RATE]
    log_mel = LogMel(80)
    together = log_mel(torch.from_numpy(np.stack([quiet, loud])))
    alone = log_mel(torch.from_numpy(quiet)[None])
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0)


def test_a_second_has_a_hundred_frames() -> None:
    assert LogMel(80)(torch.zeros(2, 6 * SAMPLE_RATE)).shape == (2, 80, 600)
