"""What the engine's benchmark measures with: clock, peak memory, matmul rate, and the operations of a model."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pipeline.model.recogniser import AsrModel

TURNS = 9  # how often works in turns are measured; the median counts
MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}


class Meter:
    """`with Meter(device) as meter:` then `.seconds`, `.wall_seconds` and `.peak_mb`.

    On a CPU, `seconds` is the processor time of this process. With one thread, that is the wall time on a machine that
    does nothing else. On CUDA, `seconds` is the wall time.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.seconds = self.wall_seconds = self.peak_mb = 0.0

    def __enter__(self) -> Meter:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            _reset_peak()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        self.wall_seconds = time.perf_counter() - self._wall
        self.seconds = self.wall_seconds if self.cuda else time.process_time() - self._cpu
        self.peak_mb = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else _peak_mb()


def in_turns(device: str, *works: Callable[[], Any]) -> list[float]:
    """Median seconds of each work. Every turn runs all of them once."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(TURNS):
        for work, measured in zip(works, seconds, strict=True):
            with Meter(device) as meter:
                work()
            measured.append(meter.seconds)
    return [median(measured) for measured in seconds]


def matmul_rate(device: str, dtype: torch.dtype, repeats: int = 10) -> float:
    """FLOP/s of a product of two square matrices on this machine, measured now."""
    side = MATMUL_SIDE["cuda" if device.startswith("cuda") else "cpu"]
    a = torch.randn(side, side, device=device).to(dtype)
    a @ a
    with Meter(device) as meter:
        for _ in range(repeats):
            a @ a
    return 2 * side**3 * repeats / meter.seconds


def flop_per_window(model: AsrModel, canvas: int, steps: float) -> float:
    """Floating point operations of the prefill of one prompt and of `steps` steps of one canvas, without the encoder.

    A multiplication and its addition are two. A step needs the active weights, attention over prompt and canvas, the
    vocabulary head, and the self-conditioning's `probs @ E`.
    """
    prompt = model.prompt_length
    hidden, vocab = model.config.hidden_size, model.config.vocab_size
    weights, attention = 0, 0
    for layer in model.backbone.model.decoder.layers:
        own = layer.self_attn
        dense = [own.q_proj, own.k_proj, own.v_proj, own.o_proj, layer.router.proj]
        dense += [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
        weights += sum(linear.weight.numel() for linear in dense if linear is not None)
        experts = layer.experts
        chosen = layer.router.config.top_k_experts / experts.num_experts
        weights += int((experts.gate_up_proj.numel() + experts.down_proj.numel()) * chosen)
        attention += 2 * own.q_proj.out_features  # q k^T and p v, per key
    conditioning = sum(p.numel() for p in model.backbone.model.decoder.self_conditioning.parameters())
    per_token = 2 * (weights + conditioning + attention * (prompt + canvas)) + 4 * hidden * vocab
    prefill = prompt * 2 * (weights + attention * prompt / 2)
    return float(prefill + steps * canvas * per_token)


def _reset_peak() -> None:
    """Set the peak of this process's resident memory to what it uses now. Only on Linux."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def _peak_mb() -> float:
    """The peak of resident memory since `_reset_peak`, in MB. 0 if this is not Linux."""
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(peak.group(1)) / 1024 if peak else 0.0
