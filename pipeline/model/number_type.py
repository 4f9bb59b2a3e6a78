"""The number type of weights and activations, for `model.dtype`."""

from __future__ import annotations

from pathlib import Path

import torch

CPU = Path("/proc/cpuinfo")
COMPUTES = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of CPUs that multiply bfloat16; `bf16` is Arm's


def torch_type(name: str, device: str, *, is_whisper: bool = False) -> torch.dtype:
    """The type by its name. auto: float32, for Whisper on a CPU with instructions for bfloat16 that: it is faster."""
    if name == "auto":
        name = "bfloat16" if is_whisper and device == "cpu" and _computes_bfloat16() else "float32"
    found: torch.dtype = getattr(torch, name)
    return found


def _computes_bfloat16() -> bool:
    lines = CPU.read_text().splitlines() if CPU.exists() else []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return bool(COMPUTES & set(flags.split()))
