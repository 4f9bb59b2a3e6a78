"""SpecAugment: spans of time and bands of frequency of log-mel features are hidden from the encoder."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_mel(
    mel_BMT: Tensor,
    generator: torch.Generator,
    *,
    time_masks: int,
    time_frames: int,
    mel_masks: int,
    mel_bins: int,
) -> Tensor:
    """A copy with up to `time_frames` frames and `mel_bins` bins hidden per mask and row: the row's mean stands there.

    generator: on the CPU; what it draws depends on the number of rows and masks alone. Source: arXiv 1904.08779;
    differs: spans are drawn over the whole window, and the mean is that of the row.
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
