"""Batches of recordings with like lengths of text and audio, on canvases as short as their texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.audio.pcm import from_pcm
from pipeline.training.adapter_config import AudioAugment
from pipeline.training.augment import noisy
from pipeline.training.examples import Examples

Inputs = Callable[[list[int], int], Tensor]  # (rows, number of their batch) -> audio, [rows, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Recordings with their texts.

    inputs float32 [B, ...]; targets_BC int64, text then end tokens; text_lengths int64 [B] without the end; real_slots
    int64 [B], the audio slots with sound.
    """

    inputs: Tensor
    targets_BC: Tensor
    text_lengths: Tensor
    real_slots: Tensor
    languages: list[str | None]

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(
            self.inputs.to(device),
            self.targets_BC.to(device),
            self.text_lengths.to(device),
            self.real_slots.to(device),
            self.languages,
        )


class Batches:
    """Batch n is a function of (seed, n): a resumed run sees what an uninterrupted one would have seen.

    Texts that do not fit the full canvas with their end token are left out and counted in `too_long`.
    """

    def __init__(
        self,
        texts: Sequence[str],
        languages: Sequence[str | None],
        inputs: Inputs,
        real_slots: Sequence[int],
        tokenizer: Tokenizer,
        *,
        canvas_length: int,
        batch: int,
        seed: int,
        eos: int,
        fill: int | None = None,
        canvas_step: int | None = None,
        full_canvas_share: float = 0.0,
    ) -> None:
        """Encode all texts.

        Args:
            texts: of every recording.
            languages: of every recording; None: unknown.
            inputs: gives the audio of some rows, as samples or features.
            real_slots: audio slots with sound of every recording, by `AsrConfig.real_slots`.
            tokenizer: of the model.
            canvas_length: tokens of the full canvas.
            batch: recordings of a batch.
            seed: of the order.
            eos: the end token.
            fill: token of the canvas behind text and end token; None: end tokens.
            canvas_step: a batch's canvas is its longest text and one end token, rounded up to a multiple of this;
                None: always the full canvas.
            full_canvas_share: batches in [0, 1] that get the full canvas all the same.
        """
        self.languages, self.inputs, self.batch, self.seed, self.eos = languages, inputs, batch, seed, eos
        self.real_slots = real_slots
        self.canvas_length = canvas_length
        self.step, self.full_share = canvas_step or canvas_length, full_canvas_share
        self.tokens = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        self.rows = [row for row, ids in enumerate(self.tokens) if ids and len(ids) < canvas_length]
        self.fill = eos if fill is None else fill
        self.too_long = len(self.tokens) - len(self.rows)
        self._epoch = -1
        self._batches: list[tuple[list[int], int]] = []

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return max(1, len(self.rows) // self.batch)

    def canvas_of(self, row: int) -> int:
        """Tokens of the shortest canvas for a text and one end token."""
        needed = -(-(len(self.tokens[row]) + 1) // self.step) * self.step
        return min(needed, self.canvas_length)

    def at(self, number: int) -> tuple[list[int], int]:
        """The rows of batch `number` and its canvas length.

        An epoch has every row once, except the fewer than `batch` that are left over.
        """
        epoch, index = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._batches, self._epoch = self._plan(epoch, self.per_epoch), epoch
        return self._batches[index]

    def _plan(self, epoch: int, count: int) -> list[tuple[list[int], int]]:
        """Shuffle the rows, sort them by canvas and by audio slots, cut them into batches, and shuffle the batches."""
        rng = np.random.default_rng([self.seed, epoch])
        order = [self.rows[i] for i in rng.permutation(len(self.rows))]
        while len(order) < self.batch:  # fewer recordings than a batch: some come twice
            order += order[: self.batch - len(order)]
        order = sorted(order[: count * self.batch], key=lambda row: (self.canvas_of(row), self.real_slots[row]))
        batches = []
        for first in range(0, len(order), self.batch):
            rows = order[first : first + self.batch]
            full = rng.random() < self.full_share
            batches.append((rows, self.canvas_length if full else max(self.canvas_of(row) for row in rows)))
        return [batches[i] for i in rng.permutation(len(batches))]

    def of(self, rows: list[int], canvas: int, number: int) -> Batch:
        """Inputs and targets of some rows of batch `number`, on a canvas of `canvas` tokens."""
        targets = torch.full((len(rows), canvas), self.fill)
        for i, row in enumerate(rows):
            ended = torch.tensor([*self.tokens[row], self.eos])
            targets[i, : len(ended)] = ended
        return Batch(
            inputs=self.inputs(rows, number),
            targets_BC=targets,
            text_lengths=torch.tensor([len(self.tokens[row]) for row in rows]),
            real_slots=torch.tensor([self.real_slots[row] for row in rows]),
            languages=[self.languages[row] for row in rows],
        )


def audio_windows(examples: Examples, *, window_samples: int, augment: AudioAugment, seed: int) -> Inputs:
    """The inputs of examples: float32 [rows, window_samples], with noise that depends on (seed, number, row) alone."""

    def windows(rows: list[int], number: int) -> Tensor:
        made = []
        for row in rows:
            pcm = examples.pcm(row)
            rng = np.random.default_rng([seed, number, row])
            made.append(noisy(from_pcm(pcm, window_samples), len(pcm) // 2, augment, rng))
        return torch.from_numpy(np.stack(made))

    return windows
