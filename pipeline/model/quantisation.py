"""Weights of the backbone's layers as INT8, one scale per row, and back to the model's dtype where they are used.

This halves the memory of a bfloat16 model, not its arithmetic. Fused experts are 90 % of DiffusionGemma's weights, and
no INT8 of a library covers them: torchao 0.18 stores them as Int8Tensor, but runs neither of the ways in which
transformers multiplies them (`aten.transpose` and `aten.bmm` are not implemented); bitsandbytes passes over them. So
linear layers and experts are stored here, in one way. Embeddings, router, norms, LoRA, projector and encoder stay as
they are. torchao's FP8 needs a GPU and was not tried.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaTextExperts

LEVELS = 127  # symmetric: -127 ... 127
VALUES, SCALE = "_int8", "_scale"  # what a weight's two tensors are called after it


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A weight [..., rows, columns] in place: values int8 of that shape, scale [..., rows, 1]."""

    values: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def copy_(self, weight: Tensor) -> None:
        """Quantise. The scale is rounded to its own dtype first, so that only the values are inexact."""
        exact = weight.to(self.values.device, torch.float32)
        self.scale.copy_(exact.abs().amax(-1, keepdim=True).clamp_(min=1e-12) / LEVELS)
        self.values.copy_((exact / self.scale.float()).round_().clamp_(-LEVELS, LEVELS))


def _float(module: Any, name: str) -> Tensor:
    """The weight in the dtype of its scale."""
    scale: Tensor = getattr(module, name + SCALE)
    values: Tensor = getattr(module, name + VALUES)
    return values.to(scale.dtype) * scale


class Int8Linear(nn.Linear):
    """A linear layer whose weight is made of INT8 each time."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return _float(self, "weight")


class Int8Experts(DiffusionGemmaTextExperts):
    """Experts whose weights are made of INT8 each time, all of a layer's at once: 1.5 GB in bfloat16 at full size."""

    @property
    def gate_up_proj(self) -> Tensor:  # type: ignore[override]
        return _float(self, "gate_up_proj")

    @property
    def down_proj(self) -> Tensor:  # type: ignore[override]
        return _float(self, "down_proj")


def quantise(backbone: DiffusionGemmaForBlockDiffusion) -> None:
    """Replace linear layers and experts of all layers, for a model on the meta device; what is tied stays tied."""
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for stack in (backbone.model.encoder.language_model.layers, backbone.model.decoder.layers):
        for parent in list(stack.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, DiffusionGemmaTextExperts):
                    setattr(parent, name, _replaced(child, Int8Experts, ("gate_up_proj", "down_proj"), made))
                elif isinstance(child, nn.Linear) and name != "proj":  # the router's
                    setattr(parent, name, _replaced(child, Int8Linear, ("weight",), made))


def int8_weights(state: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(weight's name, name of its values, name of its scale) for all in a state dict."""
    for name in state:
        if name.endswith(VALUES):
            weight = name.removesuffix(VALUES)
            yield weight, name, weight + SCALE


def _replaced(
    module: nn.Module, kind: type[nn.Module], names: tuple[str, ...], made: dict[int, tuple[nn.Parameter, nn.Parameter]]
) -> nn.Module:
    """The module as one of `kind`, with INT8 in place of the named weights; nothing else changes."""
    new = kind.__new__(kind)
    new.__dict__.update({key: copy.copy(value) if key[0] == "_" else value for key, value in module.__dict__.items()})
    new._is_hf_initialized = True  # type: ignore[assignment]
    for name in names:
        weight = new._parameters.pop(name)
        assert weight is not None
        if id(weight) not in made:
            values = torch.empty_like(weight, dtype=torch.int8)
            scale = torch.empty_like(weight[..., :1])
            made[id(weight)] = nn.Parameter(values, requires_grad=False), nn.Parameter(scale, requires_grad=False)
        new._parameters[name + VALUES], new._parameters[name + SCALE] = made[id(weight)]
    return new
