"""The engine's denoising loop gives, token for token, what transformers' `generate` gives on the same noise."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from pipeline.benchmark.stock import generate_on_same_noise
from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.denoise.lane import Lane, Prepared
from pipeline.model.network import backbone
from pipeline.model.recogniser import AsrModel
from tests.support.small_model import random_model


def ours(
    model: AsrModel, prompts: torch.Tensor, denoise: DenoiseConfig, keys: torch.Tensor
) -> tuple[torch.Tensor, list[int]]:
    kv, _ = backbone.prefill(model.backbone, backbone.embed(model.backbone, prompts))
    with mock.patch.object(AsrModel, "prompt_length", prompts.shape[1]):
        lane = Lane(model, slots=len(prompts), canvas_length=model.config.canvas_length, denoise=denoise, tile=128)
    for row in range(len(prompts)):
        lane.admit(Prepared(row, tuple(keys[row].tolist()), kv, row))
    canvases: dict[int, list[int]] = {}
    steps: dict[int, int] = {}
    while lane.active:
        for finished in lane.denoise_once():
            canvases[finished.job], steps[finished.job] = finished.canvas.tokens, finished.canvas.steps
    rows = range(len(prompts))
    return torch.tensor([canvases[row] for row in rows]), [steps[row] for row in rows]


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_same_noise_gives_the_same_tokens_as_generate(seed: int, early_stop: bool) -> None:
    model = random_model(seed, spread=2.0, peaked=30.0)
    denoise = DenoiseConfig(max_steps=24, entropy_bound=2.0, confidence_threshold=0.2, early_stop=early_stop, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(20, model.config.vocab_size, (5, 11), generator=generator)
    keys = torch.tensor([noise.row_keys(f"segment {row}", seed) for row in range(5)], dtype=torch.int32)
    tokens, steps = ours(model, prompts, denoise, keys)
    assert torch.equal(tokens, generate_on_same_noise(model, prompts, denoise, keys))
    if early_stop:
        assert min(steps) < 24  # the stopping rule was exercised
    else:
        assert steps == [24] * 5
