"""What merging LoRA saves is measured on one set of weights, which stay as they are."""

from __future__ import annotations

import torch

from pipeline.benchmark.merging import Merging, measure_merging, with_lora
from pipeline.config import DenoiseConfig
from pipeline.model.files import checkpoint
from pipeline.model.network import backbone, lora
from tests.support.small_model import random_model


def test_a_ratio_is_the_time_with_lora_in_every_call_by_the_time_merged() -> None:
    measured = Merging(prefill=3.0, prefill_merged=2.0, step=5.0, step_merged=4.0)
    assert (measured.prefill_ratio, measured.step_ratio) == (1.5, 1.25)


def test_the_model_with_lora_shares_all_other_weights_and_computes_something_else() -> None:
    model = random_model()
    made = with_lora(model)
    own = {weight.data_ptr() for weight in model.parameters()}
    adapters = {weight.data_ptr() for weight in lora.state(made.backbone).values()}
    assert {weight.data_ptr() for weight in made.parameters()} == own | adapters
    assert {weight.shape[0] for name, weight in lora.state(made.backbone).items() if name.endswith("down")} == {16}
    prompt = torch.randn(1, 5, 64)
    with torch.inference_mode():
        (_, plain), (_, hidden) = (backbone.prefill(of.backbone, prompt) for of in (model, made))
    assert not torch.allclose(plain, hidden)


def test_both_are_measured_on_tiny_and_its_weights_stay() -> None:
    """Which of them is faster is not asserted: the difference is a few percent, and the tests' machine is shared."""
    model = checkpoint.load("tiny")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    prompts = torch.randint(20, 400, (8, model.prompt_length), generator=torch.Generator().manual_seed(0))
    measured = measure_merging(model, prompts, DenoiseConfig(max_steps=4), device="cpu", compile=False)
    assert measured.prefill_ratio > 0.5
    assert measured.step_ratio > 0.5
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
