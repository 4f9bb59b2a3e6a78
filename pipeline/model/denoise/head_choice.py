"""Which tile step the vocabulary head takes on this machine: torch's or the Triton kernel, by measurement."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.denoise import noise
from pipeline.model.denoise.vocabulary_head import HeadOutput, TileStep, tile_step, vocabulary_head
from pipeline.model.exhaustion import memory_exhausted

log = logging.getLogger(__name__)

Run = Callable[[TileStep, bool], HeadOutput]  # the head with this tile step; with the T = 1 outputs or without
Seconds = Callable[[Callable[[], object]], float]

REPEATS = 3
DEVIATION = 4.0  # of the logits that are measured on; about a trained model's
# What rounding may change between two right kernels: a float32 score near 75 has steps of 8e-6, so of 100,000 rows one
# or two draw another token; statistics are within 1e-4 of the exact ones; bfloat16 has 8 bits.
TIES, NATS, SOFT = 1e-3, 1e-3, 2.0**-6


@dataclass(frozen=True)
class Choice:
    """The tile step that the engine runs. seconds: of a whole step's head, by name, where both were measured."""

    name: Literal["torch", "triton"]
    step: TileStep
    seconds: dict[str, float] = field(default_factory=dict)


@torch.inference_mode()
def choose(setting: str, torch_step: TileStep, weight_VH: Tensor, *, softcap: float, rows: int) -> Choice:
    """`setting` is model.head. auto: the faster on `rows` positions; without a CUDA device or triton it is torch.

    torch_step: `tile_step`, compiled or plain. Raises ConfigError where `triton` is wanted and cannot be.
    """
    reason = obstacle(weight_VH.device)
    if setting == "triton" and reason:
        raise ConfigError(f"model.head: triton: {reason}")
    if setting == "torch" or reason:
        return Choice("torch", torch_step)
    run = example(weight_VH, softcap=softcap, rows=rows)
    from pipeline.model.denoise import vocabulary_head_triton as fused  # only here: on a CPU there is no triton

    if setting == "triton":
        for raw in (True, False):
            run(fused.tile_step, raw)  # compiles it
        return Choice("triton", fused.tile_step)
    return faster(torch_step, fused.tile_step, run, seconds=cuda_seconds, errors=fused.ERRORS)


def obstacle(device: torch.device) -> str | None:
    """Why the Triton kernel cannot run on `device`; None where it can."""
    if device.type != "cuda":
        return f"it needs a CUDA device, the model is on {device.type}"
    try:
        importlib.import_module("triton")
    except ImportError as err:
        return f"triton, which the CUDA builds of torch bring, cannot be imported: {err}"
    return None


def faster(
    torch_step: TileStep,
    triton_step: TileStep,
    run: Run,
    *,
    seconds: Seconds,
    errors: tuple[type[Exception], ...] = (),
) -> Choice:
    """The faster of the two, and torch's where the kernel does not give what the plain `tile_step` gives, or breaks.

    errors: what the kernel may raise where it cannot be compiled; exhausted memory and CUDA faults go through.
    """
    expected = run(tile_step, True)
    try:
        difference = _difference(expected, run(triton_step, True))
        theirs = 0.0 if difference else seconds(lambda: run(triton_step, False))
    except errors as err:
        if memory_exhausted(err) or isinstance(err, torch.AcceleratorError):
            raise
        difference = f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"
    if difference:
        log.warning("vocabulary head: the Triton kernel is not used: %s", difference)
        return Choice("torch", torch_step)
    del expected
    ours = seconds(lambda: run(torch_step, False))
    times = {"torch": ours, "triton": theirs}
    choice = Choice("triton", triton_step, times) if theirs < ours else Choice("torch", torch_step, times)
    log.info("vocabulary head: torch %.2f ms, triton %.2f ms: %s", 1e3 * ours, 1e3 * theirs, choice.name)
    return choice


def example(weight_VH: Tensor, *, softcap: float, rows: int) -> Run:
    """The head of one step over `rows` random positions in the weights' dtype, temperatures of the whole schedule."""
    device, size = weight_VH.device, weight_VH.shape[1]
    norm = weight_VH[:4096].float().norm(dim=1).mean()
    hidden = torch.randn(rows, size, device=device, generator=torch.Generator(device).manual_seed(0))
    hidden = hidden.mul_(DEVIATION / norm).to(weight_VH.dtype)
    temperature = torch.linspace(0.4, 0.8, rows, device=device)
    keys = torch.tensor([noise.row_keys("head", 0)], dtype=torch.int32, device=device)
    steps = torch.zeros(1, dtype=torch.int32, device=device)
    keys = noise.position_keys(keys, steps, noise.SAMPLE, rows)[0]

    def run(step: TileStep, raw: bool) -> HeadOutput:
        return vocabulary_head(
            hidden, weight_VH, softcap=softcap, temperature_N=temperature, keys_N2=keys, raw=raw, step=step
        )

    return run


def cuda_seconds(work: Callable[[], object]) -> float:
    """The least of REPEATS runs by CUDA events, after one that warms up."""
    work()
    found = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return min(found)


def _difference(ours: HeadOutput, theirs: HeadOutput) -> str | None:
    """In which output the two differ by more than rounding."""
    for name in ("argmax", "sample"):
        other = int((getattr(ours, name) != getattr(theirs, name)).sum())
        if other > TIES * len(ours.argmax):
            return f"{name} differs from torch's in {other} of {len(ours.argmax)} positions"
    bounds = {"entropy": NATS, "entropy_raw": NATS, "probability": NATS, "soft": SOFT * ours.soft.abs().amax().item()}
    for name, bound in bounds.items():
        apart = (getattr(ours, name) - getattr(theirs, name)).abs().amax().item()
        if not apart <= bound:  # NaN as well
            return f"{name} differs from torch's by {apart:.2g}"
    return None
