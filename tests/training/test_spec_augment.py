"""SpecAugment hides whole spans and bands, no longer than it is told, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.training.spec_augment import mask_mel

NONE = {"time_masks": 0, "time_frames": 0, "mel_masks": 0, "mel_bins": 0}


def mel(rows: int = 64) -> Tensor:
    return torch.rand(rows, 20, 100, generator=torch.Generator().manual_seed(0))


def masked(seed: int = 0, **sizes: int) -> Tensor:
    return mask_mel(mel(), torch.Generator().manual_seed(seed), **(NONE | sizes))


def hidden(**sizes: int) -> Tensor:
    """Which of [64, 20, 100] are the mean of their row now."""
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
    assert bool((spans[:, 0].int().diff(dim=1).abs().sum(1) <= 2).all())  # one piece
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
