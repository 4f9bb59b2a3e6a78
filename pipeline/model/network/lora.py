"""LoRA on the backbone's attention: the prompt pass (encoder) and denoising (decoder) have adapters of their own.

Encoder and decoder share their weights, but each has its own linear modules around them. An adapter sits in the module
of its phase. So nothing is switched between phases, and compiled code sees plain matrix products. In training LoRA is
added to the layer's output. For inference `merge` adds it to the weights, each phase in a copy of its own. Then q, k, v
and o exist twice, and no step computes LoRA. All other weights stay shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DiffusionGemmaForBlockDiffusion

PREFIX = "lora."  # of the names in adapter.safetensors
PHASES = ("encoder", "decoder")


class LoraLinear(nn.Module):
    """Wraps a linear layer: [..., in] to [..., out], base(x) + (alpha / rank) (x down^T) up^T.

    dropout: probability with which a number of x does not reach `down`, in training mode.
    """

    dropout = 0.0

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        device, dtype = base.weight.device, base.weight.dtype
        self.lora_down = nn.Parameter(torch.empty(rank, base.in_features, device=device, dtype=dtype))
        self.lora_up = nn.Parameter(torch.zeros(base.out_features, rank, device=device, dtype=dtype))
        nn.init.kaiming_uniform_(self.lora_down, a=5**0.5)  # as PEFT does; lora_up is zero, so the product is zero
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        base: Tensor = self.base(x)
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        return base + F.linear(F.linear(x, self.lora_down), self.lora_up) * self.scale

    def merged(self) -> nn.Linear:
        """The base layer with a new weight, which has LoRA in it. The sum is float32; then it is rounded once.

        The old weight does not change, because the other phase has it too.
        """
        old = self.base.weight
        with torch.no_grad():
            both = torch.addmm(old.float(), self.lora_up.float(), self.lora_down.float(), alpha=self.scale)
        self.base.weight = nn.Parameter(both.to(old.dtype), requires_grad=False)
        return self.base


def attach(backbone: DiffusionGemmaForBlockDiffusion, *, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Wrap the target projections in all layers of both phases. Weights and their ties stay as they are.

    A layer that has no such projection (v_proj in global layers) is left alone.
    """
    for phase in PHASES:
        for layer in _layers(backbone, phase):
            for target in targets:
                linear = getattr(layer.self_attn, target)
                if linear is not None:
                    setattr(layer.self_attn, target, LoraLinear(linear, rank=rank, alpha=alpha))


def merge(backbone: DiffusionGemmaForBlockDiffusion) -> None:
    """Put plain linear layers in place of the wrapped ones. For inference: the model can be neither trained nor saved.

    It goes from weight to weight, so it never needs more than the copies (`copied`) and room for one weight.
    """
    for phase in PHASES:
        for layer in _layers(backbone, phase):
            attention: Any = layer.self_attn
            for target, module in list(attention.named_children()):
                if isinstance(module, LoraLinear):
                    setattr(attention, target, module.merged())


def copied(backbone: DiffusionGemmaForBlockDiffusion) -> int:
    """How many numbers `merge` stores beyond today's: both phases get a weight where they share one now."""
    bases = [module.base.weight for _, module in adapters(backbone)]
    shared = {id(weight): weight for weight in bases}.values()
    return sum(weight.numel() for weight in bases) - sum(weight.numel() for weight in shared)


def adapters(backbone: DiffusionGemmaForBlockDiffusion) -> Iterator[tuple[str, LoraLinear]]:
    """Every wrapped layer with the beginning of its weights' names: `lora.encoder.layers.0.q_proj`."""
    for phase in PHASES:
        for index, layer in enumerate(_layers(backbone, phase)):
            attention: Any = layer.self_attn
            for target, module in attention.named_children():
                if isinstance(module, LoraLinear):
                    yield f"{PREFIX}{phase}.layers.{index}.{target}", module


def state(backbone: DiffusionGemmaForBlockDiffusion) -> dict[str, nn.Parameter]:
    """All LoRA weights under their names in adapter.safetensors: `.down` [rank, in] and `.up` [out, rank]."""
    return {
        f"{name}.{side}": weight
        for name, module in adapters(backbone)
        for side, weight in (("down", module.lora_down), ("up", module.lora_up))
    }


def is_own(name: str) -> bool:
    """Whether a parameter of the backbone with that name belongs to an adapter."""
    return name.endswith((".lora_down", ".lora_up"))


def base_name(name: str) -> str:
    """The name that a parameter of the backbone would have without adapters."""
    return name.replace(".base.", ".")


def _layers(backbone: DiffusionGemmaForBlockDiffusion, phase: str) -> nn.ModuleList:
    part = backbone.model.encoder.language_model if phase == "encoder" else backbone.model.decoder
    layers: nn.ModuleList = part.layers
    return layers
