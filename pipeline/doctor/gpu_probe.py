"""What torch says about the GPUs, as JSON on stdout: `python -m pipeline.doctor.gpu_probe`.

It is a process of its own: if a driver hangs, it can be killed, and its CUDA context takes no memory afterwards.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SIZE = 1024  # of the matrices that are multiplied on each device


def facts() -> dict[str, Any]:
    """Versions; for each visible device its name, capability, bytes, and an error if it computes other than the CPU."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.version.cuda and torch.cuda.is_available() else 0
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _triton(),
        "architectures": torch.cuda.get_arch_list() if count else [],
        "driver": _driver(),
        "kernel": platform.release(),
        "why": " ".join(str(warning.message).split("(Triggered")[0].strip() for warning in said),
        "devices": [_device(torch, index) for index in range(count)],
    }


def _device(torch: Any, index: int) -> dict[str, Any]:
    about: dict[str, Any] = {"name": f"device {index}", "capability": "", "free": 0, "total": 0, "error": ""}
    try:
        properties = torch.cuda.get_device_properties(index)
        about |= {"name": properties.name, "capability": f"{properties.major}.{properties.minor}"}
        free, total = torch.cuda.mem_get_info(index)
        about |= {"free": free, "total": total}
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
        for dtype in (torch.float32, torch.bfloat16):
            product = (left.to(index, dtype) @ right.to(index, dtype)).float().cpu()
            exact = left.to(dtype).float() @ right.to(dtype).float()
            error = float((product - exact).abs().max() / exact.abs().max())
            if not error < 0.02:
                about["error"] = f"a {dtype} product differs from the CPU's by {error:.0%}"
    except Exception as err:  # noqa: BLE001 - of CUDA: no kernel image, out of memory, a lost device
        about["error"] = " ".join(str(err).split())[:200]
    return about


def _triton() -> str:
    """The version of Triton, empty if it is not installed. Compiled code for GPUs and the head's kernel need it."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return ""


def _driver() -> str:
    """The version of the NVIDIA kernel module, empty if none is loaded."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    version_text = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return version_text.group(1) if version_text else "unknown"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts()) + "\n")
