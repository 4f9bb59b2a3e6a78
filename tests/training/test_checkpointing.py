"""Gradient checkpointing gives the same losses, cache and gradients, and each layer runs once more for them."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from pipeline.model.files.layout import LoraSpec
from pipeline.model.network import backbone, lora
from pipeline.model.recogniser import AsrModel
from pipeline.training import checkpointing
from pipeline.training.losses import DiffusionKnobs, autoregressive_loss, diffusion_loss
from tests.support.small_model import random_model

LORA = LoraSpec(rank=4, alpha=8, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
TARGETS = torch.randint(30, 200, (3, 8), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([3, 5, 7])
REAL = torch.tensor([7, 5, 2])  # audio slots with sound


def model_of() -> AsrModel:
    model = random_model(0, canvas_length=8, lora=LORA)
    for weight in lora.state(model.backbone).values():
        weight.requires_grad_(True)
    return model


def prompt_of(model: AsrModel) -> Tensor:
    audio = torch.randn(3, 7, model.config.hidden_size, generator=torch.Generator().manual_seed(2))
    return model.prompt_embeds(audio, ["en", None, "zh"]).requires_grad_(True)


def gradients(
    model: AsrModel, prefill: object, dtype: torch.dtype | None = None, *, share: float = 0.5
) -> dict[str, Tensor]:
    """The gradients of the prompt and of every adapter, and both losses. share: of self-conditioned rows."""
    prompt = prompt_of(model)
    knobs = DiffusionKnobs(draws=2, all_noise_share=0.3, self_conditioning_share=share, eos_weight=0.2)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        ar, cache = autoregressive_loss(model, prompt, REAL, TARGETS, LENGTHS, prefill)  # type: ignore[arg-type]
        diffusion, _ = diffusion_loss(model, cache, TARGETS, LENGTHS, knobs, torch.Generator().manual_seed(3))
    (diffusion + 0.3 * ar).backward()
    assert prompt.grad is not None
    values = {"ar": ar.detach(), "diffusion": diffusion.detach(), "prompt": prompt.grad}
    for name, weight in lora.state(model.backbone).items():
        assert weight.grad is not None, name
        assert bool(weight.grad.any()), name
        values[name] = weight.grad
        weight.grad = None
    return values


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_losses_and_gradients_are_those_without(dtype: torch.dtype | None) -> None:
    """Every adapter of both phases gets its gradient through the cache that all draws share, in both passes."""
    model = model_of()
    expected = gradients(model, backbone.prefill, dtype)
    checkpointing.enable(model.backbone)
    model.backbone.train()
    saved = gradients(model, checkpointing.prefill, dtype)
    rounding = 1e-5 if dtype is None else 0.03  # in bfloat16 a weight's uses are summed in another precision
    for name, value in expected.items():
        assert float((saved[name] - value).norm() / value.norm()) < rounding, name


def test_the_cache_is_that_of_one_pass_also_after_the_backward() -> None:
    model = model_of()
    prompt = prompt_of(model)
    expected, hidden = backbone.prefill(model.backbone, prompt)
    model.backbone.train()
    cache, saved = checkpointing.prefill(model.backbone, prompt)
    kept = [layer.keys.detach().clone() for layer in cache.layers]
    saved.square().sum().backward()
    torch.testing.assert_close(saved, hidden)
    for layer, before, own in zip(cache.layers, kept, expected.layers, strict=True):
        assert torch.equal(layer.keys, before)
        torch.testing.assert_close(layer.keys, own.keys)
        torch.testing.assert_close(layer.values, own.values)


def _count(ran: Tensor, *_: object) -> None:
    ran.add_(1)


def test_every_layer_of_both_phases_runs_again_in_the_backward() -> None:
    """That saves the memory. Without checkpointing no layer runs again."""
    counts = {}
    for checkpointed in (False, True):
        model = model_of()
        if checkpointed:
            checkpointing.enable(model.backbone)
            model.backbone.train()
        ran = torch.zeros(())
        encoder, decoder = model.backbone.model.encoder.language_model, model.backbone.model.decoder
        for part in (encoder, decoder):
            for layer in part.layers:
                layer.mlp.register_forward_hook(functools.partial(_count, ran))
        prefill = checkpointing.prefill if checkpointed else backbone.prefill
        gradients(model, prefill, share=0.0)
        counts[checkpointed] = int(ran)
    assert counts == {False: 6, True: 12}  # three layers of each phase
