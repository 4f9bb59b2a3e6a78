"""How fast the engine could be on this machine: its matrix products, attention and transcendental functions alone.

These calls are recorded with their arguments while the engine prefills and takes steps. Then they run again, one after
the other, in turns with the engine itself, so that a machine that becomes slower does so for both. No program that
computes the same with these libraries can be faster. It can only save the rest: norms, sums, copies and noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.benchmark.measure import in_turns
from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.denoise.compiled import Calls
from pipeline.model.denoise.lane import Lane, Prepared
from pipeline.model.network import backbone
from pipeline.model.network.backbone import PromptKV
from pipeline.model.recogniser import AsrModel

STEPS = 4  # denoising steps in one turn
UNAVOIDABLE = (
    *("aten.mm.", "aten.addmm", "aten.bmm.", "aten.baddbmm", "aten.matmul.", "aten.linear.", "aten._grouped_mm."),
    *("aten.scaled_dot_product_attention.", "aten._scaled_dot_product", "aten.tanh", "aten.exp", "aten.gelu"),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds of one step of all slots, and of the prefill of their prompts: the engine's and the bound's."""

    step: float
    step_bound: float
    prefill: float
    prefill_bound: float

    def window(self, steps: int, slots: int) -> tuple[float, float]:
        """Seconds of one window with `steps` steps: the engine's and the bound's."""
        return (
            (steps * self.step + self.prefill) / slots,
            (steps * self.step_bound + self.prefill_bound) / slots,
        )


class _Recorder(TorchDispatchMode):
    """Records the calls that every program needs, with copies of their arguments. Weights are not copied."""

    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if str(func).startswith(UNAVOIDABLE):
            self.calls.append((func, tuple(self._copy(arg) for arg in args), kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _copy(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.untyped_storage().data_ptr() in self.weights:
            return value
        return value.clone(memory_format=torch.preserve_format)

    def replay(self) -> None:
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


def measure_bound(model: AsrModel, prompts: Tensor, denoise: DenoiseConfig, *, device: str, compile: bool) -> Bound:
    """Measure the engine and the bound. All slots are active in every step.

    prompts: int64 [slots, prompt].
    """
    calls = Calls.make(compile=compile)
    plain = Calls.make(compile=False)
    with torch.inference_mode():
        embeds = backbone.embed(model.backbone, prompts)
        kv, _ = calls.prefill(model.backbone, embeds)
        ours, recorded = (full_lane(model, kv, denoise, of) for of in (calls, plain))
        for _ in range(STEPS):
            ours.denoise_once()
            recorded.denoise_once()
        with _Recorder(model) as step:
            recorded.denoise_once()
        with _Recorder(model) as prefill:
            plain.prefill(model.backbone, embeds)
        del recorded

        def steps() -> None:
            for _ in range(STEPS):
                ours.denoise_once()

        def replays() -> None:
            for _ in range(STEPS):
                step.replay()

        times = in_turns(device, steps, replays, lambda: calls.prefill(model.backbone, embeds), prefill.replay)
    return Bound(times[0] / STEPS, times[1] / STEPS, times[2], times[3])


def full_lane(model: AsrModel, kv: PromptKV, denoise: DenoiseConfig, calls: Calls) -> Lane:
    """A lane with a row for every prompt of `kv`. No row ends before 256 steps."""
    steady = denoise.model_copy(update={"max_steps": 256, "early_stop": False})
    slots = len(kv.layers[0].keys)
    made = Lane(model, slots=slots, canvas_length=model.config.canvas_length, denoise=steady, calls=calls)
    for row in range(slots):
        made.admit(Prepared(row, noise.row_keys(str(row), 0), kv, row))
    return made
