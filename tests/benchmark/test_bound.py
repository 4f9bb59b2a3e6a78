"""Tests of the bound: it holds what no program can do without, and only that."""

from __future__ import annotations

import torch

from pipeline.benchmark.bound import Bound, _Recorder, measure_bound
from pipeline.config import DenoiseConfig
from tests.support.small_model import random_model


def test_a_window_is_its_steps_and_its_share_of_the_prefill() -> None:
    bound = Bound(step=0.5, step_bound=0.25, prefill=1.0, prefill_bound=0.5)
    assert bound.window(4, 2) == (1.5, 0.75)


def test_products_attention_and_transcendental_functions_are_kept_with_what_they_were_given() -> None:
    model = random_model()
    weight = model.backbone.lm_head.weight
    x = torch.randn(3, weight.shape[1])
    with torch.inference_mode(), _Recorder(model) as recorded:
        logits = torch.nn.functional.linear(x, weight)
        logits.add_(1.0).tanh_()
        torch.nn.functional.rms_norm(logits, (logits.shape[1],))
        logits.sort()
    names = [str(func).split(".")[1] for func, _, _ in recorded.calls]
    assert set(names) <= {"linear", "mm", "matmul", "tanh_"}
    assert names[-1] == "tanh_"
    (_, given, _) = recorded.calls[0]
    assert any(
        arg is weight or (isinstance(arg, torch.Tensor) and arg.data_ptr() == weight.data_ptr()) for arg in given
    )
    (_, (before,), _) = recorded.calls[-1]
    assert before.abs().max() > 1  # what tanh was given, not what it made of it
    with torch.inference_mode():
        recorded.replay()


def test_the_bound_is_below_the_engine() -> None:
    model = random_model(layers=2)
    prompts = torch.randint(20, 400, (8, model.prompt_length), generator=torch.Generator().manual_seed(0))
    bound = measure_bound(model, prompts, DenoiseConfig(max_steps=4), device="cpu", compile=False)
    assert 0 < bound.step_bound < bound.step
    assert 0 < bound.prefill_bound < bound.prefill
