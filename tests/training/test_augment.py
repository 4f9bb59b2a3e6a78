"""Noise has the level and colour of the settings; SpecAugment hides whole spans and bands, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.schemas import SAMPLE_RATE
from pipeline.training.adapter_config import AudioAugment
from pipeline.training.augment import coloured_noise, mask_mel, mask_sizes, noisy

NONE = {"time_masks": 0, "time_frames": 0, "mel_masks": 0, "mel_bins": 0}


def mel(rows: int = 64) -> Tensor:
    return torch.rand(rows, 20, 100, generator=torch.Generator().manual_seed(0))


def masked(seed: int = 0, **sizes: int) -> Tensor:
    return mask_mel(mel(), torch.Generator().manual_seed(seed), **(NONE | sizes))


def hidden(**sizes: int) -> Tensor:
    """Where the mask is: bool [64, 20, 100]. Every masked value is the mean of its row."""
    result = masked(**sizes)
    mean = mel().mean((1, 2), keepdim=True).expand_as(result)
    changed = result != mel()
    assert torch.equal(result[changed], mean[changed])
    return changed


def test_a_time_mask_hides_all_bins_of_a_span() -> None:
    spans = hidden(time_masks=1, time_frames=15)
    assert torch.equal(spans, spans.all(1, keepdim=True).expand_as(spans))
    lengths = spans[:, 0].sum(1)
    assert set(lengths.tolist()) <= set(range(16))
    assert len(set(lengths.tolist())) > 8
    assert bool((spans[:, 0].int().diff(dim=1).abs().sum(1) <= 2).all())  # one span
    assert bool(spans[:, 0, -20:].any())
    assert bool(spans[:, 0, :20].any())


def test_a_mel_mask_hides_all_frames_of_a_band() -> None:
    bands = hidden(mel_masks=1, mel_bins=4)
    assert torch.equal(bands, bands.all(2, keepdim=True).expand_as(bands))
    assert set(bands[:, :, 0].sum(1).tolist()) == {0, 1, 2, 3, 4}


def test_several_masks_hide_at_most_their_sum() -> None:
    frames = hidden(time_masks=3, time_frames=10, mel_masks=2, mel_bins=2).all(1).sum(1)
    assert 10 < int(frames.max()) <= 30


def test_without_masks_nothing_changes() -> None:
    assert torch.equal(masked(), mel())
    assert torch.equal(masked(time_masks=2, mel_masks=2), mel())


def test_masks_longer_than_the_window_are_cut_to_it() -> None:
    assert hidden(time_masks=1, time_frames=10_000).shape == (64, 20, 100)


def test_the_same_generator_hides_the_same() -> None:
    sizes = {"time_masks": 2, "time_frames": 20, "mel_masks": 1, "mel_bins": 5}
    assert torch.equal(masked(3, **sizes), masked(3, **sizes))
    assert not torch.equal(masked(3, **sizes), masked(4, **sizes))


def test_noise_is_as_far_below_the_speech_as_asked_and_ends_with_it() -> None:
    rng = np.random.default_rng(0)
    window = np.zeros(16_000, np.float32)
    window[:8000] = rng.normal(size=8000) * 0.05
    made = noisy(window, 8000, AudioAugment(noise_share=1.0, snr_db_min=10.0, snr_db_max=10.0), rng)
    added = made[:8000] - window[:8000]
    assert 10 * np.log10(np.mean(window[:8000] ** 2) / np.mean(added**2)) == pytest.approx(10.0, abs=0.1)
    assert not made[8000:].any()
    assert made.dtype == np.float32


def test_mask_sizes_are_frames_of_ten_milliseconds() -> None:
    assert mask_sizes(AudioAugment(time_mask_ms=150, mel_mask_bins=7)) == {
        "time_masks": 2,
        "time_frames": 15,
        "mel_masks": 1,
        "mel_bins": 7,
    }


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_falls_with_its_exponent(exponent: float) -> None:
    """Power at 250 Hz over power at 4 kHz, four octaves up, is 16 ** exponent."""
    noise = coloured_noise(SAMPLE_RATE * 20, exponent, np.random.default_rng(0))
    assert np.mean(noise**2) == pytest.approx(1.0, rel=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    low, high = (power[(hertz > f * 0.95) & (hertz < f * 1.05)].mean() for f in (250.0, 4000.0))
    assert low / high == pytest.approx(16**exponent, rel=0.2)
