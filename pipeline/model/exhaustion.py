"""Whether an error means that the accelerator's memory is exhausted, also where another error wraps it."""

from __future__ import annotations

import torch

MESSAGES = ("out of memory", "ALLOC_FAILED")  # of CUDA, cuBLAS, cuDNN and Triton; compile errors quote them


def memory_exhausted(error: BaseException) -> bool:
    """True for OutOfMemoryError, and for an error with one in its message, cause or context (a failed compilation)."""
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        if isinstance(link, torch.OutOfMemoryError) or any(message in str(link) for message in MESSAGES):
            return True
        seen.add(id(link))
        links += [link.__cause__, link.__context__, getattr(link, "inner_exception", None)]
    return False
