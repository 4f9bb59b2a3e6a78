"""The product of experts in FP8, which torch has for GPUs only, written out for the CPU matrix by matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    """Inside the block torch has `_scaled_grouped_mm` on the CPU: sums in float32, rounded to bfloat16 at the end."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_scaled_grouped_mm", _grouped, "CPU")
    try:
        yield
    finally:
        del library  # and with it the product


def _grouped(
    x: Tensor, weight: Tensor, scale_x: Tensor, scale: Tensor, offs: Tensor, *_: object, **__: object
) -> Tensor:
    """Inputs [rows, in] in FP8, sorted by expert; weight [experts, in, out] in FP8; offs: the end of each expert's rows."""
    out, start = torch.zeros(len(x), weight.shape[2]), 0
    for expert, end in enumerate(offs.tolist()):
        out[start:end] = (x[start:end].float() @ weight[expert].float()) * scale_x[start:end, None] * scale[expert]
        start = end
    return out.bfloat16()
