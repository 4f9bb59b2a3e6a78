"""The settings that every training shares, and the learning rate that they give each step."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from pipeline.config import Section


class TrainingSteps(Section):
    """Batches, optimiser, weights of the losses, and how often something is written."""

    batch: int = Field(16, ge=1, le=65_536, description="recordings of a worker at once")
    accumulate: int = Field(1, ge=1, le=65_536, description="such batches of one step")
    draws: int = Field(2, ge=1, le=1_024, description="noise draws per prompt pass")
    lr: float = Field(1.5e-4, gt=0, le=10, description="highest learning rate")
    lr_end_fraction: float = Field(0.1, ge=0, le=1, description="of it, at the end of the cosine")
    warmup_steps: int = Field(25, ge=0, le=100_000_000, description="over which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, le=10, description="of matrices")
    beta2: float = Field(0.99, gt=0, lt=1, description="decay of AdamW's second moment; that of the first is 0.9")
    clip: float = Field(1.0, gt=0, le=1_000_000, description="norm of the gradient at most")
    ctc_weight: float = Field(0.3, ge=0, le=1_000, description="of the CTC loss beside the others")
    autoregressive_weight: float = Field(
        0.3, ge=0, le=1_000, description="of the autoregressive loss beside the diffusion loss"
    )
    all_noise_share: float = Field(0.35, ge=0, le=1, description="examples at t = 1, where denoising starts")
    all_noise_by: Literal["example", "batch"] = Field(
        "example", description="batch: all examples of a batch are at t = 1, in that share of the batches"
    )
    corrupted_only: bool = Field(False, description="the diffusion loss counts no token that the noise has spared")
    self_conditioning_share: float = Field(0.5, ge=0, le=1, description="examples with two passes")
    eos_weight: float = Field(0.2, ge=0, le=1, description="weight of the fill after the first end token")
    language_dropout: float = Field(0.15, ge=0, le=1, description="prompts that do not name the language")
    projector_float32: bool = Field(False, description="the projector runs without autocast")
    precision: Literal["bfloat16", "float32"] = Field("bfloat16", description="bfloat16: autocast")
    checkpoint_steps: int = Field(100, ge=1, le=100_000_000, description="between checkpoints")
    log_steps: int = Field(20, ge=1, le=100_000_000, description="between lines of the log")

    def learning_rate(self, step: int, total: int) -> float:
        """The rate of one step: a linear rise to `lr`, then a cosine down to lr_end_fraction of it at step `total`."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        end = self.lr_end_fraction
        return self.lr * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * done)))
