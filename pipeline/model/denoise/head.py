"""Which code runs the tile step of the vocabulary head, torch's or the Triton kernel: what `model.head` names."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.denoise.vocabulary_head import TileStep, run_head
from pipeline.model.exhaustion import memory_exhausted


@torch.inference_mode()
def tile_step_for(setting: str, torch_step: TileStep, weight_VH: Tensor, *, guided: bool = False) -> TileStep:
    """The tile step that `model.head` (`torch` or `triton`) names. guided: with classifier-free guidance.

    torch_step: `vocabulary_head.tile_step`, compiled or plain. The kernel is compiled here, for this machine.
    Raises ConfigError naming `model.head` where the kernel cannot run on this machine.
    """
    if setting == "torch":
        return torch_step
    if guided:
        raise ConfigError("model.head: triton: its kernel has no guidance; set denoise.guidance=1 or model.head=torch")
    if reason := obstacle(weight_VH.device):
        raise ConfigError(f"model.head: triton: {reason}")
    from pipeline.model.denoise import vocabulary_head_triton as fused  # only here: on a CPU there is no triton

    try:
        for raw in (True, False):
            _run_once(fused.tile_step, weight_VH, raw=raw)
    except fused.ERRORS as err:
        if memory_exhausted(err) or isinstance(err, torch.AcceleratorError):
            raise
        text = " ".join(str(err).split())[:300]
        raise ConfigError(f"model.head: triton: the kernel cannot be compiled: {type(err).__name__}: {text}") from err
    return fused.tile_step


def obstacle(device: torch.device) -> str | None:
    """The reason why the Triton kernel cannot run on `device`; None where there is none before it is compiled."""
    if device.type != "cuda":
        return f"it needs a CUDA device, the model is on {device.type}"
    try:
        importlib.import_module("triton")
    except ImportError as err:
        return f"triton, which the CUDA builds of torch bring, cannot be imported: {err}"
    return None


def _run_once(step: TileStep, weight_VH: Tensor, *, raw: bool) -> None:
    """Run the head for one position. On CUDA its tiles are as wide as for any number of positions."""
    device = weight_VH.device
    run_head(
        torch.zeros(1, weight_VH.shape[1], device=device, dtype=weight_VH.dtype),
        weight_VH,
        softcap=1.0,
        temperature_N=torch.ones(1, device=device),
        keys_N2=torch.zeros(1, 2, dtype=torch.int32, device=device),
        raw=raw,
        step=step,
    )
