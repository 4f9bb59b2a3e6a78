"""Several workers on one adapter: gradients averaged, results gathered, frozen weights shared out (FSDP)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from pipeline.model.files.checkpoint import AsrModel


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


def shard(model: AsrModel, group: Group) -> list[Any]:
    """Every worker keeps its share of the experts and feed-forward layers (nine tenths of the full-size weights).

    Encoder and decoder tie their weights layer by layer, and FSDP takes a weight in one module only: so both phases get
    one module, not two with one weight. Everything else, the adapter too, stays whole on every worker. Each worker
    holds the whole model once while it loads. Returns the sharded modules.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(group.device.type, (group.world,))
    sharded: list[Any] = []
    encoder, decoder = model.backbone.model.encoder.language_model, model.backbone.model.decoder
    for one, other in zip(encoder.layers, decoder.layers, strict=True):
        for name in ("experts", "mlp"):
            module = getattr(other, name)
            setattr(one, name, module)
            sharded.append(fully_shard(module, mesh=mesh, reshard_after_forward=True))
    return sharded


@contextlib.contextmanager
def whole(sharded: list[Any]) -> Iterator[None]:
    """All weights on every worker inside the block, so that each can transcribe at its own pace."""
    for module in sharded:
        module.set_reshard_after_forward(False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(True)
