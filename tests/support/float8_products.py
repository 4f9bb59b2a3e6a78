"""The product of experts in FP8, which torch has for GPUs only, written out for the CPU matrix by matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


@contextlib.contextmanager
def on_the_cpu() -> Iterator[list[int]]:
    """Inside the block torch has `_scaled_grouped_mm` on the CPU: sums in float32, rounded to bfloat16 at the end.

    Yields the number of rows of each product so far.
    """
    rows: list[int] = []

    def counted(x: Tensor, *others: Tensor, **settings: Tensor) -> Tensor:
        rows.append(len(x))
        return _grouped(x, *others, **settings)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_scaled_grouped_mm", counted, "CPU")
    try:
        yield rows
    finally:
        del library  # and with it the product


def _grouped(
    x: Tensor, weight: Tensor, scale_x: Tensor, scale: Tensor, offs: Tensor, *_: object, **__: object
) -> Tensor:
    """Both in FP8: inputs [rows, in], sorted by expert, weights [experts, in, out]. offs: where each expert ends."""
    out, start = torch.zeros(len(x), weight.shape[2]), 0
    for expert, end in enumerate(offs.tolist()):
        out[start:end] = (x[start:end].float() @ weight[expert].float()) * scale_x[start:end, None] * scale[expert]
        start = end
    return out.bfloat16()
