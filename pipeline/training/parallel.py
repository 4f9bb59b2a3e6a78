"""Several workers on one adapter: gradients averaged, results gathered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn


@dataclass(frozen=True, slots=True)
class Group:
    """This worker among its like. One alone needs no process group."""

    device: torch.device
    rank: int = 0
    world: int = 1

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each gradient becomes its mean over the workers, in one message. A missing one counts as zero.

        Only the adapter has gradients (169 MB at full size), so this is what DDP would do, without wrapping the model.
        """
        if self.world == 1:
            return
        held = list(parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held])
        distributed.all_reduce(flat)
        for parameter, part in zip(held, flat.div_(self.world).split([p.numel() for p in held]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values
