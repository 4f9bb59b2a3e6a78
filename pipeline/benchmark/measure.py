"""What the engine's benchmark measures with: clock, peak memory, matmul rate, and the operations of a model."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.model.denoise import ctc, scheduler
from pipeline.model.denoise.compiled import audio_vectors
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


def flop_per_window(
    model: AsrModel, canvas: int, steps: float, *, prompt: int | None = None, guided: bool = False
) -> float:
    """Floating point operations of the prefill of one prompt and of `steps` steps of one canvas, without the encoder.

    A multiplication and its addition are two. A step needs the active weights, attention over prompt and canvas, the
    vocabulary head, and the self-conditioning's `probs @ E`. prompt: its positions; None: with all audio slots. guided:
    all but `probs @ E` twice in each step, since the few positions fewer of the second pass do not count.
    """
    prompt = prompt or model.prompt_length
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
    one_pass = 2 * (weights + conditioning + attention * (prompt + canvas)) + 2 * hidden * vocab
    per_token = one_pass * (2 if guided else 1) + 2 * hidden * vocab
    prefill = prompt * 2 * (weights + attention * prompt / 2)
    return float(prefill + steps * canvas * per_token)


def flop_of_encoder(model: AsrModel) -> float:
    """Floating point operations of encoder and projector for one window, counted by PyTorch while one is computed.

    Attention is computed as plain matrix products, because PyTorch does not count its kernel for CPUs.
    """
    weight = model.projector.input.weight
    frames = 2 * model.config.encoder_frames
    mel = torch.zeros(1, model.config.encoder.mels, frames, device=weight.device, dtype=weight.dtype)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        audio_vectors(model, mel)
    return float(counter.get_total_flops())


class CtcClock:
    """`with CtcClock(device) as clock:` then `.seconds`: what the engine spent on the CTC head meanwhile.

    The head scores the audio slots in the prompt pass and aligns the text when a canvas ends. On CUDA the first is the
    time between two events of its stream, in which other streams may have worked too, and the second is wall time.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self._host = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        score = self._between_events if self.cuda else self._on_host
        self._patches = contextlib.ExitStack()
        self._wrapped = ((scheduler, "score_slots", score), (ctc, "hypothesis", self._on_host))

    def __enter__(self) -> CtcClock:
        for module, name, wrap in self._wrapped:
            self._patches.enter_context(mock.patch.object(module, name, wrap(getattr(module, name))))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    @property
    def seconds(self) -> float:
        """Processor seconds of the threads that do it; on CUDA see above."""
        return self._host + sum(before.elapsed_time(after) for before, after in self._events) / 1000

    def _on_host(self, function: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.perf_counter if self.cuda else time.thread_time

        def timed(*args: Any, **kwargs: Any) -> Any:
            before = clock()
            made = function(*args, **kwargs)
            self._host += clock() - before
            return made

        return timed

    def _between_events(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            made = function(*args, **kwargs)
            after.record()
            self._events.append((before, after))
            return made

        return timed


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
