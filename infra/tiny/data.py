"""Encoder features of a synthesised corpus: computed once, read back at random, masked."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.audio.pcm import from_pcm
from pipeline.model.network.encoder import AudioEncoder

log = logging.getLogger(__name__)

STRETCH, STRETCH_FRAMES = 0.15, 16  # in nats of speed; 0.32 s
NOISE = 0.1
SPANS, SPAN_FRAMES = 3, 15  # of 0.3 s at most


@torch.inference_mode()
def cache_features(corpus: Path, cache: Path, encoder: AudioEncoder, *, window_samples: int, batch: int = 16) -> int:
    """Write the encoder's output for every utterance. Returns how many utterances are cached.

    Each shard of the corpus gives a float16 .npy [utterances, frames, d_model] and a .json with texts, languages,
    voices and numbers of samples; files appear whole or not at all. A cached shard is computed again only where it has
    more utterances now, or where the window has changed. Utterances longer than the window are left out.

    Args:
        corpus: folder of shards.
        cache: folder of the features.
        encoder: runs in the dtype it is in.
        window_samples: of the model's window, at 16 kHz.
        batch: utterances that the encoder takes at once.
    """
    cache.mkdir(parents=True, exist_ok=True)
    total = 0
    for shard in sorted(corpus.glob("*.parquet")):
        done = cache / f"{shard.stem}.json"
        recipe = {"utterances": pq.read_metadata(shard).num_rows, "window_samples": window_samples}
        if done.exists() and (cached := json.loads(done.read_text())).get("recipe") == recipe:
            total += len(cached["texts"])
            continue
        table = pq.read_table(shard, columns=["language", "voice", "text", "pcm"])
        table = table.filter(pc.less_equal(pc.binary_length(table["pcm"]), 2 * window_samples))
        pcm = table["pcm"].to_pylist()
        features = []
        for start in range(0, len(pcm), batch):
            windows = np.stack([from_pcm(p, window_samples) for p in pcm[start : start + batch]])
            features.append(encoder(torch.from_numpy(windows)).half().numpy())
        temporary = cache / f"{shard.stem}.tmp.npy"
        np.save(temporary, np.concatenate(features))
        temporary.replace(cache / f"{shard.stem}.npy")
        names = {"texts": table["text"], "languages": table["language"], "voices": table["voice"]}
        tree = {k: v.to_pylist() for k, v in names.items()} | {"samples": [len(p) // 2 for p in pcm], "recipe": recipe}
        temporary = cache / f"{shard.stem}.json.tmp"
        temporary.write_text(json.dumps(tree))
        temporary.replace(done)
        total += len(pcm)
        log.info("features: %s, %d utterances", shard.stem, total)
    return total


def cached_frames(cache: Path) -> set[int]:
    """How many encoder frames the utterances of a cache have. Empty where nothing is cached."""
    return {np.load(path.with_suffix(".npy"), mmap_mode="r").shape[1] for path in cache.glob("*.json")}


class FeatureCache:
    """The cached utterances of one or more folders, mapped into memory and read by number."""

    def __init__(self, *caches: Path) -> None:
        self.texts: list[str] = []
        self.languages: list[str] = []
        self.voices: list[str] = []
        self.samples: list[int] = []  # at 16 kHz
        self._where: list[tuple[int, int]] = []
        self._shards: list[np.ndarray] = []
        shards = [path for cache in caches for path in sorted(cache.glob("*.json"))]
        for number, path in enumerate(shards):
            tree = json.loads(path.read_text())
            self._shards.append(np.load(path.with_suffix(".npy"), mmap_mode="r"))
            self._where += [(number, row) for row in range(len(tree["texts"]))]
            self.texts += tree["texts"]
            self.languages += tree["languages"]
            self.voices += tree["voices"]
            self.samples += tree["samples"]

    def __len__(self) -> int:
        return len(self.texts)

    def features(self, rows: list[int]) -> Tensor:
        """The features of some rows, float32 [rows, frames, d_model]."""
        picked = np.stack([self._shards[shard][row] for shard, row in (self._where[i] for i in rows)])
        return torch.from_numpy(picked).float()


def altered(features_BFD: Tensor, generator: torch.Generator) -> Tensor:
    """The features of each row as another speaker might have them: tempo, noise, masks. Returns a copy."""
    return _hidden(_stretched(features_BFD, generator), generator)


def two_altered(features_BFD: Tensor, generator: torch.Generator) -> Tensor:
    """Two alterations of each row in the same tempo, each with its own noise and masks: [2 * B, frames, d_model]."""
    return _hidden(_stretched(features_BFD, generator).repeat(2, 1, 1), generator)


def _hidden(features_BFD: Tensor, generator: torch.Generator) -> Tensor:
    """Masks, and noise of NOISE of the standard deviation that a channel has in the batch."""
    noise = torch.randn(features_BFD.shape, generator=generator) * features_BFD.std((0, 1))
    return mask_features(features_BFD + NOISE * noise, generator)


def _stretched(features_BFD: Tensor, generator: torch.Generator) -> Tensor:
    """Another speed, by up to STRETCH, in each STRETCH_FRAMES frames. The length of a row stays."""
    batch, frames, _ = features_BFD.shape
    blocks = -(-frames // STRETCH_FRAMES)
    speed = torch.exp(STRETCH * (2 * torch.rand(batch, blocks, generator=generator) - 1))
    reached = speed.repeat_interleave(STRETCH_FRAMES, 1)[:, :frames].cumsum(1)
    reached = (reached - reached[:, :1]) * (frames - 1) / (reached[:, -1:] - reached[:, :1])
    before = reached.floor().clamp_max(frames - 2)
    row, first = torch.arange(batch)[:, None], before.long()
    return torch.lerp(features_BFD[row, first], features_BFD[row, first + 1], (reached - before)[..., None])


def mask_features(features_BFD: Tensor, generator: torch.Generator) -> Tensor:
    """Hide SPANS spans of at most SPAN_FRAMES and a band of at most 1/16 of the channels in each row. Returns a copy.

    Source: SpecAugment, arXiv 1904.08779; differs: it hides encoder outputs, since the encoder does not run again.
    """
    batch, frames, channels = features_BFD.shape
    masked = features_BFD.clone()
    draws = torch.rand(batch, 2 * SPANS + 2, generator=generator)
    position = torch.arange(frames)[None]
    for span in range(SPANS):
        start = (draws[:, 2 * span] * frames).long()[:, None]
        length = (draws[:, 2 * span + 1] * (SPAN_FRAMES + 1)).long()[:, None]
        masked[(position >= start) & (position < start + length)] = 0.0
    channel = torch.arange(channels)[None]
    start = (draws[:, -2] * channels).long()[:, None]
    width = (draws[:, -1] * channels / 16).long()[:, None]
    band = (channel >= start) & (channel < start + width)
    return masked.masked_fill(band[:, None, :], 0.0)
