"""Put on PYTHONPATH by tests: the decoder kills its process on audio with the word POISON in it, and hangs on HANG.

The model kills its process on samples with VENOM in them. All of it while the file FULLCANVAS_POISON is there.

A chain gets its last bundle when the file FULLCANVAS_LAST_BUNDLE is there, and the chain goes on behind the third piece
of a unit when FULLCANVAS_THIRD_PIECE is. With FULLCANVAS_CHECKPOINT a training dies at its first checkpoint.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any


def poisonous_now() -> bool:
    return os.path.exists(os.environ["FULLCANVAS_POISON"])  # noqa: PTH110 pathlib would be imported into every process


def _poison_decoder(module: Any) -> None:
    stream = module.stream

    def poisonous(data: bytes, **options: Any) -> Any:
        if b"POISON" in data and poisonous_now():
            os.kill(os.getpid(), signal.SIGKILL)
        if b"HANG" in data and poisonous_now():
            time.sleep(1e6)
        return stream(data, **options)

    module.stream = poisonous


def _poison_model(module: Any) -> None:
    call = module.Replica.__call__

    @functools.wraps(call)
    async def poisonous(self: Any, units: Any) -> Any:
        if any(b"VENOM" in pcm for pcm in units["pcm"].to_pylist()) and poisonous_now():
            os.kill(os.getpid(), signal.SIGKILL)
        return await call(self, units)

    module.Replica.__call__ = poisonous


def held(hand_out: Callable[..., Iterator[Any]], file: str) -> Callable[..., Iterator[Any]]:
    """The same bundles, but the last one when the file is there. It is sent to processes without this module."""

    def blocks(*arguments: Any) -> Iterator[Any]:
        *first, last = hand_out(*arguments)
        yield from first
        while not os.path.exists(file):  # noqa: PTH110
            time.sleep(0.05)
        yield last

    return blocks


def _hold_last_bundle(module: Any) -> None:
    module._blocks = held(module._blocks, os.environ["FULLCANVAS_LAST_BUNDLE"])


def _hold_third_piece(module: Any) -> None:
    decoded, file = module.DecodeStage.pieces, os.environ["FULLCANVAS_THIRD_PIECE"]

    def held(self: Any, *arguments: Any) -> Iterator[Any]:
        for row in decoded(self, *arguments):
            while row["piece"] == 2 and not os.path.exists(file):  # noqa: PTH110
                time.sleep(0.05)
            yield row

    module.DecodeStage.pieces = held


def _die_at_checkpoint(module: Any) -> None:
    save = module.save

    def deadly(*arguments: Any) -> None:
        save(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    module.save = deadly


_ALL = {
    "FULLCANVAS_POISON": {"pipeline.audio.decode": _poison_decoder, "pipeline.model.stage": _poison_model},
    "FULLCANVAS_LAST_BUNDLE": {"pipeline.flow.bundles": _hold_last_bundle},
    "FULLCANVAS_THIRD_PIECE": {"pipeline.audio.stage": _hold_third_piece},
    "FULLCANVAS_CHECKPOINT": {"pipeline.training.resume": _die_at_checkpoint},
}
_PATCHES = {name: patch for key, patches in _ALL.items() if key in os.environ for name, patch in patches.items()}


class _Loader(importlib.abc.Loader):
    def __init__(self, real: importlib.abc.Loader) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        _PATCHES[module.__name__](module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> Any:
        if name not in _PATCHES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
