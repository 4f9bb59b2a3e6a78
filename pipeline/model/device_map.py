"""A model over several GPUs that are each too small for it: which layer lies where, and how activations get there.

Layers are cut into runs, one per GPU, by their weights and the prompts' keys and values; embeddings, head, encoder,
projector and the state of the canvases are the first one's. A layer's weights serve both phases, so both phases' layers
lie together. GPUs work one after another: this makes a model fit, not fast. We have computed cuts and run the hooks on
a CPU, never on two GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DiffusionGemmaForBlockDiffusion

from pipeline.config import ConfigError
from pipeline.model.memory import CONTEXT, GIB, Memory
from pipeline.model.recogniser import AsrModel


@dataclass(frozen=True, slots=True)
class Split:
    """Per layer the number of its GPU, ascending; per GPU the bytes that it will hold."""

    layers: tuple[int, ...]
    bytes: tuple[int, ...]

    def __str__(self) -> str:
        parts = [
            f"GPU {gpu}: {self.layers.count(gpu)} layers, {size / GIB:.1f} GiB" for gpu, size in enumerate(self.bytes)
        ]
        return "; ".join(parts)


def split(model: AsrModel, needed: Memory, free: Sequence[int], dtype: torch.dtype) -> Split:
    """Cut the layers so that the fullest GPU has the most left. Raises ConfigError where they do not fit.

    needed: `memory.estimate` of the whole. free: bytes per GPU, at least one.
    """
    layers = list(model.backbone.model.decoder.layers)
    weights = [sum(_size(weight, dtype) for weight in layer.parameters()) for layer in layers]
    values: list[Any] = [layer.self_attn for layer in layers]
    widths = [attention.k_proj.out_features for attention in values]
    loads = [size + needed.kv * width // sum(widths) for size, width in zip(weights, widths, strict=True)]
    # Each GPU needs room for one layer's activations; everything else that is no layer is the first one's.
    first = needed.total - CONTEXT - needed.activations - sum(loads)
    base = [CONTEXT + needed.activations + (first if gpu == 0 else 0) for gpu in range(len(free))]
    low, high = 0.0, 1.0
    best = _filled(loads, base, free, high)
    if best is None:
        parts = " + ".join(f"{size / GIB:.1f}" for size in free)
        raise ConfigError(f"model.device_map: {needed} of GPU memory do not fit into {parts} GiB, cut into layers")
    for _ in range(20):  # the lowest share of every GPU's memory that suffices
        middle = (low + high) / 2
        tried = _filled(loads, base, free, middle)
        low, high, best = (low, middle, tried) if tried is not None else (middle, high, best)
    return best


def _filled(loads: list[int], base: list[int], free: Sequence[int], share: float) -> Split | None:
    """GPUs filled in order, each up to a share of its memory; None where not all layers find a place."""
    held, where, gpu = list(base), [], 0
    for load in loads:
        while gpu < len(free) and held[gpu] + load > share * free[gpu]:
            gpu += 1
        if gpu == len(free):
            return None
        held[gpu] += load
        where.append(gpu)
    return Split(tuple(where), tuple(held)) if held[0] <= share * free[0] else None


def places(model: AsrModel, layers: Sequence[int], devices: Sequence[str]) -> dict[nn.Module, str]:
    """The device of each module in a layer that is not on the first one."""
    found: dict[nn.Module, str] = {}
    for stack in _stacks(model.backbone):
        for layer, gpu in zip(stack, layers, strict=True):
            if gpu:
                found |= dict.fromkeys(layer.modules(), devices[gpu])
    return found


def connect(model: AsrModel, layers: Sequence[int], devices: Sequence[str]) -> None:
    """Let activations follow: what enters a layer, or the norm behind the last one, is moved to its device."""
    decoder, encoder = model.backbone.model.decoder, model.backbone.model.encoder.language_model
    for stack in _stacks(model.backbone):
        for layer, gpu in zip(stack, layers, strict=True):
            layer.register_forward_pre_hook(_mover(devices[gpu]), with_kwargs=True)
    for norm in (decoder.norm, encoder.norm):
        norm.register_forward_pre_hook(_mover(devices[0]), with_kwargs=True)


def _stacks(backbone: DiffusionGemmaForBlockDiffusion) -> tuple[nn.ModuleList, nn.ModuleList]:
    return backbone.model.encoder.language_model.layers, backbone.model.decoder.layers


def _mover(device: str) -> Any:
    def move(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return _moved(args, device), {key: _moved(value, device) for key, value in kwargs.items()}

    return move


def _moved(value: Any, device: str) -> Any:
    """Tensors and tuples of them; the caches already lie with their layers."""
    if isinstance(value, Tensor):
        return value.to(device)
    return tuple(_moved(item, device) for item in value) if isinstance(value, tuple) else value


def _size(weight: Tensor, dtype: torch.dtype) -> int:
    return weight.numel() * (dtype.itemsize if weight.is_floating_point() else weight.element_size())
