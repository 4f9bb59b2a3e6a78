"""What merging LoRA saves: prefill and denoising steps with LoRA in every call, and with LoRA merged into the weights.

Both models have the weights of the given one, not a copy of them, and the same adapters of the released model's rank.
They run in turns, so that a machine that becomes slower does so for both.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.benchmark.bound import STEPS, full_lane
from pipeline.benchmark.measure import in_turns
from pipeline.config import DenoiseConfig
from pipeline.model.denoise.compiled import Calls
from pipeline.model.files import layout
from pipeline.model.network import backbone, lora
from pipeline.model.recogniser import AsrModel


@dataclass(frozen=True, slots=True)
class Merging:
    """Seconds of the prefill of all slots' prompts, and of one denoising step of all slots."""

    prefill: float
    prefill_merged: float
    step: float
    step_merged: float

    @property
    def prefill_ratio(self) -> float:
        """How many times faster the merged prefill is."""
        return self.prefill / self.prefill_merged

    @property
    def step_ratio(self) -> float:
        """How many times faster a merged denoising step is."""
        return self.step / self.step_merged


def measure_merging(model: AsrModel, prompts: Tensor, denoise: DenoiseConfig, *, device: str, compile: bool) -> Merging:
    """Measure both. The model has no LoRA, and stays as it is. All slots are active in every step.

    prompts: int64 [slots, prompt].
    """
    calls = Calls.make(compile=compile)
    unmerged = with_lora(model)
    merged = _sharing(unmerged)
    lora.merge(merged.backbone)
    with torch.inference_mode():
        embeds = backbone.embed(model.backbone, prompts)
        kv, _ = calls.prefill(merged.backbone, embeds)
        calls.prefill(unmerged.backbone, embeds)  # compiled now, not when it is measured
        lanes = [full_lane(one, kv, denoise, calls) for one in (unmerged, merged)]

        def steps(number: int) -> None:
            for _ in range(STEPS):
                lanes[number].denoise_once()

        steps(0)
        steps(1)
        times = in_turns(
            device,
            lambda: calls.prefill(unmerged.backbone, embeds),
            lambda: calls.prefill(merged.backbone, embeds),
            lambda: steps(0),
            lambda: steps(1),
        )
    return Merging(times[0], times[1], times[2] / STEPS, times[3] / STEPS)


def with_lora(model: AsrModel) -> AsrModel:
    """A model with the weights of this one and LoRA of the released model's rank on them, with random numbers."""
    spec = layout.read_config(layout.ASSETS / layout.FULL_SIZE).lora
    assert spec is not None
    made = _sharing(model)
    lora.attach(made.backbone, **spec.model_dump())
    generator = torch.Generator(model.backbone.lm_head.weight.device).manual_seed(0)
    with torch.no_grad():
        for name, weight in lora.state(made.backbone).items():
            weight.requires_grad_(False).normal_(std=0.01 if name.endswith(".up") else 0.1, generator=generator)
    return made


def _sharing(model: AsrModel) -> AsrModel:
    """The same modules once more, with the same weights."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
