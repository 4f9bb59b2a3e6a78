"""Several workers on one adapter: they average gradients and exchange results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn


@dataclass(frozen=True, slots=True)
class Group:
    """This worker among the others. A worker that is alone needs no process group of torch."""

    device: torch.device
    rank: int = 0
    world: int = 1

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the workers, in one message. A missing gradient counts as zero.

        Only the adapter has gradients (169 MB at full size). So this does what DDP does, without wrapping the model.
        """
        if self.world == 1:
            return
        trained = list(parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
        distributed.all_reduce(flat)
        for parameter, part in zip(trained, flat.div_(self.world).split([p.numel() for p in trained]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def gather(self, value: Any) -> list[Any]:
        """The value of every worker, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values
