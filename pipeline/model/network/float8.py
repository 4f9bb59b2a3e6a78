"""FP8 in the backbone: linear layers and experts whose weights take one byte each, with one scale per output channel.

A weight is `stored * scale`: stored is float8_e4m3fn, scale is float32. Where the GPU multiplies FP8 by itself, the
input is rounded to FP8 as well, with one scale per row. This is what checkpoints called "FP8-dynamic" are made for.
Everywhere else a layer makes its weights anew in the input's dtype on each call, and the input stays exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.integrations.moe import _grouped_linear

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of float8_e4m3fn
SMALLEST = torch.finfo(torch.float32).tiny  # scale of a row of zeros
ALIGNED = 16  # torch's FP8 products need both widths to be a multiple of it
DECODER = "model.decoder.layers."
PATHS = (  # in a layer: what may be in FP8. Embeddings, norms, router and self-conditioning stay as they are
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "experts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which products a device computes in FP8."""

    linear: bool = False
    experts: bool = False

    @classmethod
    def of(cls, device: str, dtype: torch.dtype) -> Kernels:
        """Those of torch 2.13 for one scale per row: linear layers from compute capability 8.9, experts only at 9.x.

        Their output is bfloat16.
        """
        if device != "cuda" or dtype != torch.bfloat16 or not torch.cuda.is_available():
            return cls()
        capability = torch.cuda.get_device_capability()
        return cls(linear=capability >= (8, 9), experts=capability[0] == 9)


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., width] as FP8 of the same shape and float32 scales [..., 1]: the largest value of a row becomes 448."""
    scale = (x.abs().amax(-1, keepdim=True).float() / LARGEST).clamp(min=SMALLEST)
    return (x / scale).clamp(-LARGEST, LARGEST).to(FP8), scale


def dequantise(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`stored * scale` in `dtype`, rounded once."""
    return stored.to(dtype).mul_(scale)


def pairs(given: tuple[Tensor, Tensor | None], target: tuple[Tensor, Tensor | None]) -> Iterator[tuple[Tensor, Tensor]]:
    """What to copy into which tensor, so that a weight with or without scales fills one with or without scales.

    The second of `given` and of `target` are scales, or None where the weight has none. FP8 goes into FP8 as it is. It
    is dequantised for a target of another dtype, and what is not in FP8 is quantised on the target's device.
    """
    (tensor, scale), (place, place_scale) = given, target
    if place_scale is not None and scale is not None and tensor.dtype != FP8:
        tensor, scale = dequantise(tensor, scale, torch.float32), None
    if place_scale is None:
        yield (tensor if scale is None else dequantise(tensor, scale, place.dtype)), place
    elif scale is not None:
        yield from ((tensor, place), (scale, place_scale))
    elif tensor.dim() > 2:  # expert by expert, which takes less memory
        for one, *into in zip(tensor, place, place_scale, strict=True):
            yield from pairs((one, None), (into[0], into[1]))
    else:
        yield from zip(quantise(tensor.to(place.device)), (place, place_scale), strict=True)


class Fp8Linear(nn.Module):
    """[..., in] to [..., out], without bias. The input's dtype is the output's."""

    def __init__(self, in_features: int, out_features: int, kernels: Kernels) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=FP8), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(out_features, 1, dtype=torch.float32), requires_grad=False)
        self.native = kernels.linear and _aligned(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        if not self.native:
            return F.linear(x, dequantise(self.weight, self.weight_scale, x.dtype))
        stored, scale = quantise(x.reshape(-1, self.in_features))
        y = torch._scaled_mm(
            stored, self.weight.t(), scale_a=scale, scale_b=self.weight_scale.t(), out_dtype=torch.bfloat16
        )
        return y.reshape(*x.shape[:-1], self.out_features)


class Fp8Experts(nn.Module):
    """All experts of a layer, in the place of transformers' module: same arguments, same results."""

    def __init__(self, experts: Any, kernels: Kernels) -> None:
        super().__init__()
        self.act_fn = experts.act_fn
        self.num_experts, double, hidden = experts.gate_up_proj.shape
        sizes = {
            "gate_up_proj": (self.num_experts, double, hidden),
            "down_proj": (self.num_experts, hidden, double // 2),
        }
        for name, shape in sizes.items():
            stored, scale = torch.empty(shape, dtype=FP8), torch.empty(*shape[:2], 1, dtype=torch.float32)
            self.register_parameter(name, nn.Parameter(stored, requires_grad=False))
            self.register_parameter(f"{name}_scale", nn.Parameter(scale, requires_grad=False))
        self.native = kernels.experts and _aligned(hidden, double // 2)

    def forward(self, hidden_TH: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """hidden_TH: [tokens, hidden]. The other two are [tokens, k]: the chosen experts and their weights."""
        chosen = top_k_index.shape[-1]
        experts, order = top_k_index.reshape(-1).sort()
        numbers = torch.arange(self.num_experts, device=experts.device)
        ends = torch.searchsorted(experts, numbers, right=True).to(torch.int32)  # of each expert's rows
        gate, up = self._product("gate_up_proj", hidden_TH, ends, order // chosen).chunk(2, dim=-1)
        out = self._product("down_proj", self.act_fn(gate) * up, ends)
        out = out * top_k_weights.reshape(-1)[order].unsqueeze(-1)
        back = torch.empty_like(out).index_copy(0, order, out)
        return back.view(hidden_TH.shape[0], chosen, -1).sum(dim=1).to(hidden_TH.dtype)

    def _product(self, name: str, x: Tensor, ends: Tensor, rows: Tensor | None = None) -> Tensor:
        """Each row of x, or of x[rows], with the matrix of its expert; they are sorted by expert."""
        weight, scale = getattr(self, name), getattr(self, f"{name}_scale")
        if not self.native:
            inputs = x if rows is None else x[rows]
            product: Tensor = _grouped_linear(inputs, dequantise(weight, scale, x.dtype), ends)
            return product
        stored, scale_x = quantise(x)
        if rows is not None:  # after rounding: a token that goes to eight experts is rounded once
            stored, scale_x = stored.view(torch.uint8)[rows].view(FP8), scale_x[rows]
        return torch._scaled_grouped_mm(
            stored, weight.transpose(1, 2), scale_x.squeeze(-1), scale.squeeze(-1), offs=ends, out_dtype=torch.bfloat16
        )


MODULES = (Fp8Linear, Fp8Experts)


def convert(backbone: DiffusionGemmaForBlockDiffusion, kernels: Kernels, only: set[str] | None = None) -> None:
    """Put FP8 modules without values into all layers; prompt pass and denoising share them. The model is on meta.

    Projections with LoRA stay as they are. only: names of the modules to replace (`model.decoder.layers.0.experts`);
    None: all of PATHS.
    """
    pairs = zip(backbone.model.decoder.layers, backbone.model.encoder.language_model.layers, strict=True)
    for index, (decoder, encoder) in enumerate(pairs):
        for path in PATHS:
            if only is not None and f"{DECODER}{index}.{path}" not in only:
                continue
            made = _replacement(_at(decoder, path), kernels)
            if made is not None:
                decoder.set_submodule(path, made)
                encoder.set_submodule(path, made)


def parameters(model: nn.Module) -> dict[int, nn.Parameter]:
    """The parameters of all FP8 modules by their `id`: their dtypes are their own, whatever the model's dtype is."""
    return {
        id(weight): weight
        for module in model.modules()
        if isinstance(module, MODULES)
        for weight in module.parameters(recurse=False)
    }


def unpacked_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the largest weight that a layer makes anew on a call; 0 where all products are computed in FP8."""
    sizes = [
        weight.numel() * dtype.itemsize
        for module in model.modules()
        if isinstance(module, MODULES) and not module.native
        for weight in module.parameters(recurse=False)
    ]
    return max(sizes, default=0)


def _at(layer: nn.Module, path: str) -> nn.Module | None:
    """The module at a path; None where the layer has none (v_proj of global layers)."""
    for name in path.split("."):
        layer = getattr(layer, name, None)  # type: ignore[assignment]
    return layer


def _replacement(module: Any, kernels: Kernels) -> nn.Module | None:
    """The FP8 module in the place of a linear layer or of a layer's experts; None for everything else."""
    if hasattr(module, "gate_up_proj"):
        return Fp8Experts(module, kernels)
    if isinstance(module, nn.Linear) and module.bias is None:
        return Fp8Linear(module.in_features, module.out_features, kernels)
    return None


def _aligned(*widths: int) -> bool:
    return all(width % ALIGNED == 0 for width in widths)
