"""What torch operations allocate: the largest tensor and the most memory that was alive at once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Allocations(TorchDispatchMode):
    """`with Allocations() as made:` then `made.largest` (elements) and `made.peak` (bytes). On meta nothing counts."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.peak = self.alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_iter(out):
            if not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta":
                continue
            if tensor.untyped_storage()._cdata not in given:  # else a view, or done in place
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.alive -= size
