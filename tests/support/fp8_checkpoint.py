"""Backbones in FP8-dynamic, written with compressed-tensors' own code, as its authors publish large models."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.model.files import checkpoint
from pipeline.model.recogniser import AsrModel

IGNORE = ["lm_head", "re:.*vision.*", "re:.*router.*", "re:.*self_conditioning.*"]


class Expert(nn.Module):
    """One expert by itself."""

    def __init__(self, gate_up: Tensor, down: Tensor) -> None:
        super().__init__()
        gate, up = gate_up.chunk(2)
        self.gate_proj, self.up_proj, self.down_proj = (_linear(weight) for weight in (gate, up, down))


def write(
    model: AsrModel,
    folder: Path,
    *,
    scheme: str = "FP8_DYNAMIC",
    ignore: list[str] | None = None,
    dtype: torch.dtype = torch.float32,
    both_phases: bool = False,
) -> dict[str, Tensor]:
    """Write a model whose backbone is quantised. Returns the backbone's weights as compressed-tensors dequantises them.

    They come under the model's own names, experts in one tensor. both_phases: the weights of the prompt pass are
    written too, though they are those of denoising.
    """
    checkpoint.save(model, folder, dtype=torch.float32)
    made = copy.deepcopy(model.backbone).to(dtype)
    for part in (made.model.decoder, made.model.encoder.language_model):
        for layer in part.layers:
            old = layer.experts
            layer.experts = nn.ModuleList(Expert(*pair) for pair in zip(old.gate_up_proj, old.down_proj, strict=True))
    for module in made.modules():  # each phase has weights of its own, as a program that knows no ties sees them
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)
    config = QuantizationConfig(config_groups={scheme: ["Linear"]}, ignore=IGNORE if ignore is None else ignore)
    apply_quantization_config(made, config)
    for module in made.modules():
        if scheme == "FP8_DYNAMIC" and hasattr(module, "weight_scale"):
            low, high = module.weight.amin(-1, keepdim=True), module.weight.amax(-1, keepdim=True)
            module.weight_scale.data.copy_(calculate_qparams(low, high, module.quantization_scheme.weights)[0])
    compressor = ModelCompressor.from_pretrained_model(made)
    compressor.compress_model(made)
    state = {name: tensor for name, tensor in made.state_dict().items() if name != "lm_head.weight"}
    if not both_phases:
        shared = ("layer_scalar", "vision_tower", "embed_vision")
        state = {n: t for n, t in state.items() if not n.startswith("model.encoder.") or any(w in n for w in shared)}
    state = {name: tensor.clone() for name, tensor in state.items()}
    save_file(state, folder / "backbone" / "model.safetensors", metadata={"format": "pt"})
    compressor.update_config(str(folder / "backbone"))
    compressor.decompress_model(made)
    return _fused(made.state_dict())


def _fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the experts of each layer in two tensors."""
    fused = {name: tensor for name, tensor in state.items() if ".experts." not in name and "_scale" not in name}
    number = 1 + max(int(name.split(".experts.")[1].split(".")[0]) for name in state if ".experts." in name)
    for start in {name.split(".experts.")[0] for name in state if ".experts." in name}:
        one = [
            {part: state[f"{start}.experts.{n}.{part}_proj.weight"] for part in ("gate", "up", "down")}
            for n in range(number)
        ]
        gate_up = torch.stack([torch.cat([weights["gate"], weights["up"]]) for weights in one])
        fused[f"{start}.experts.gate_up_proj"] = gate_up
        fused[f"{start}.experts.down_proj"] = torch.stack([weights["down"] for weights in one])
    return fused | {name: tensor for name, tensor in state.items() if name.endswith(".per_expert_scale")}


def _linear(weight: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    return made
