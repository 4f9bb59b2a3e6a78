"""Augmentation of training audio: added noise, and spans of time and bands of frequency hidden (SpecAugment)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.schemas import SAMPLE_RATE
from pipeline.training.adapter_config import AudioAugment


def noisy(window: np.ndarray, length: int, augment: AudioAugment, rng: np.random.Generator) -> np.ndarray:
    """Add noise to the first `length` samples of a window, in `noise_share` of all calls. float32 in [-1, 1]."""
    if rng.random() >= augment.noise_share or not length:
        return window
    snr_db = rng.uniform(augment.snr_db_min, augment.snr_db_max)
    speech = window[:length]
    mixed = window.copy()
    mixed[:length] = np.clip(add_noise(speech, float(np.mean(speech**2)), snr_db, rng), -1.0, 1.0)
    return mixed


def mask_sizes(augment: AudioAugment) -> dict[str, int]:
    """The sizes for `mask_mel`; a mel frame is 10 ms."""
    return {
        "time_masks": augment.time_masks,
        "time_frames": augment.time_mask_ms // 10,
        "mel_masks": augment.mel_masks,
        "mel_bins": augment.mel_mask_bins,
    }


def add_noise(samples: np.ndarray, power: float, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise between white and brown, `snr_db` below speech of mean square `power`. Returns float64 [samples]."""
    level = np.sqrt(power / 10 ** (snr_db / 10))
    return samples + level * coloured_noise(len(samples), rng.uniform(-0.5, 2.0), rng)


def coloured_noise(length: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of mean square 1 and power 1/f^exponent (0 white, 1 pink, 2 brown). float32 [length]."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequencies = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 50.0)  # flat below 50 Hz
    noise = np.fft.irfft(spectrum * frequencies ** (-exponent / 2), length)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def mask_mel(
    mel_BMT: Tensor,
    generator: torch.Generator,
    *,
    time_masks: int,
    time_frames: int,
    mel_masks: int,
    mel_bins: int,
) -> Tensor:
    """Hide up to `time_frames` frames and `mel_bins` bins per mask and row: they get the row's mean. Returns a copy.

    Source: SpecAugment, arXiv 1904.08779; differs: spans are drawn over the whole window, and the mean is the row's.

    Args:
        mel_BMT: float32 [batch, bins, frames].
        generator: on the CPU; how much it draws depends on the number of rows and masks alone.
        time_masks: spans of time per row.
        time_frames: frames of a span at most.
        mel_masks: bands of frequency per row.
        mel_bins: bins of a band at most.
    """
    batch, bins, frames = mel_BMT.shape
    hidden = torch.zeros(batch, bins, frames, dtype=torch.bool)
    for masks, longest, size, dim in ((time_masks, time_frames, frames, 2), (mel_masks, mel_bins, bins, 1)):
        draws = torch.rand(batch, masks, 2, generator=generator)
        length = (draws[..., 0] * (min(longest, size) + 1)).long()
        start = (draws[..., 1] * (size - length + 1)).long()
        position = torch.arange(size)
        within = (position >= start[..., None]) & (position < (start + length)[..., None])
        hidden |= within.any(1).unsqueeze(3 - dim)
    return torch.where(hidden.to(mel_BMT.device), mel_BMT.mean((1, 2), keepdim=True), mel_BMT)
