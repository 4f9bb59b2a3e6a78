"""Batches of audio for the adapter: recordings of like text length together, on canvases as short as their texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.model.denoise.scheduler import window_of
from pipeline.training.adapter_config import AudioAugment
from pipeline.training.augment import noisy
from pipeline.training.examples import Examples


@dataclass(frozen=True, slots=True)
class AudioBatch:
    """samples_BT float32; targets_BC int64, text then end tokens; text_lengths int64 without the end."""

    samples_BT: Tensor
    targets_BC: Tensor
    text_lengths: Tensor
    languages: list[str | None]

    def to(self, device: torch.device) -> AudioBatch:
        return AudioBatch(
            self.samples_BT.to(device), self.targets_BC.to(device), self.text_lengths.to(device), self.languages
        )


class AudioBatches:
    """Batch n is a function of (seed, n): a resumed run sees what an uninterrupted one would have seen.

    canvas_step: a batch's canvas is its longest text and one end token, rounded up to a multiple of this; None: always
    the full canvas. Texts that do not fit the full canvas are left out and counted in `too_long`.
    """

    def __init__(
        self,
        examples: Examples,
        tokenizer: Tokenizer,
        *,
        canvas_length: int,
        window_samples: int,
        batch: int,
        seed: int,
        eos: int,
        canvas_step: int | None = None,
        full_canvas_share: float = 0.0,
    ) -> None:
        self.examples, self.batch, self.seed, self.eos = examples, batch, seed, eos
        self.canvas_length, self.window_samples = canvas_length, window_samples
        self.step, self.full_share = canvas_step or canvas_length, full_canvas_share
        self.tokens = [tokenizer.encode(text, add_special_tokens=False).ids for text in examples.texts]
        self.rows = [row for row, ids in enumerate(self.tokens) if ids and len(ids) < canvas_length]
        self.too_long = len(self.tokens) - len(self.rows)
        self._epoch = -1
        self._batches: list[tuple[list[int], int]] = []

    def canvas_of(self, row: int) -> int:
        """Text and one end token, rounded up."""
        needed = -(-(len(self.tokens[row]) + 1) // self.step) * self.step
        return min(needed, self.canvas_length)

    def at(self, number: int) -> tuple[list[int], int]:
        """Rows of batch `number` and their canvas length. An epoch has every row once, but for fewer than a batch."""
        per_epoch = max(1, len(self.rows) // self.batch)
        epoch, index = divmod(number, per_epoch)
        if epoch != self._epoch:
            self._batches, self._epoch = self._plan(epoch, per_epoch), epoch
        return self._batches[index]

    def _plan(self, epoch: int, count: int) -> list[tuple[list[int], int]]:
        """In random order, sorted by canvas, cut into batches, and these in random order again."""
        rng = np.random.default_rng([self.seed, epoch])
        order = [self.rows[i] for i in rng.permutation(len(self.rows))]
        while len(order) < self.batch:  # fewer recordings than a batch: some come twice
            order += order[: self.batch - len(order)]
        order = sorted(order[: count * self.batch], key=self.canvas_of)
        batches = []
        for first in range(0, len(order), self.batch):
            rows = order[first : first + self.batch]
            full = rng.random() < self.full_share
            batches.append((rows, self.canvas_length if full else max(self.canvas_of(row) for row in rows)))
        return [batches[i] for i in rng.permutation(len(batches))]

    def of(self, rows: list[int], canvas: int, number: int, augment: AudioAugment) -> AudioBatch:
        """The audio of some rows of batch `number`, with noise that depends on (seed, number, row)."""
        targets = torch.full((len(rows), canvas), self.eos)
        windows = []
        for i, row in enumerate(rows):
            targets[i, : len(self.tokens[row])] = torch.tensor(self.tokens[row])
            pcm = self.examples.pcm(row)
            rng = np.random.default_rng([self.seed, number, row])
            windows.append(noisy(window_of(pcm, self.window_samples), len(pcm) // 2, augment, rng))
        return AudioBatch(
            samples_BT=torch.from_numpy(np.stack(windows)),
            targets_BC=targets,
            text_lengths=torch.tensor([len(self.tokens[row]) for row in rows]),
            languages=[self.examples.languages[row] for row in rows],
        )
