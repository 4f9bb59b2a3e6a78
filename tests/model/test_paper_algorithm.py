"""The engine against a literal, slow implementation of the algorithm in the model's paper (arXiv 2607.13013)."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.recogniser import AsrModel
from tests.model.test_engine_equals_generate import ours
from tests.support.small_model import random_model


def literal(model: AsrModel, prompt_1P: Tensor, denoise: DenoiseConfig, keys_12: Tensor) -> tuple[list[int], int]:
    """One row: dense logits, the prompt encoded anew in each step, no tiles and no lanes. Tokens, steps taken."""
    length, vocab = model.config.canvas_length, model.config.vocab_size
    first = torch.zeros(1, dtype=torch.int32)
    canvas = noise.random_tokens(keys_12, first, noise.CANVAS, length, vocab)
    conditioning, argmax, unchanged = None, torch.full((1, length), -1), 0
    for step in range(denoise.max_steps):
        temperature = denoise.temperature_min + (denoise.temperature_max - denoise.temperature_min) * (
            (denoise.max_steps - step) / denoise.max_steps
        )
        logits = model.backbone(
            input_ids=prompt_1P, decoder_input_ids=canvas, self_conditioning_logits=conditioning
        ).logits
        scaled = logits / temperature
        log_p = scaled.log_softmax(-1)[0]
        entropy = -(log_p.exp() * log_p).sum(-1)
        now = torch.full((1,), step, dtype=torch.int32)
        sample = noise.sample(log_p, noise.position_keys(keys_12, now, noise.SAMPLE, length)[0])
        if denoise.acceptance == "each":
            keep = entropy < denoise.entropy_bound
        else:
            order, keep, spent = entropy.argsort(stable=True), torch.zeros(length, dtype=torch.bool), 0.0
            for position in order:
                keep[position] = spent <= denoise.entropy_bound
                spent += float(entropy[position])
        best = logits.argmax(-1)
        unchanged = unchanged + 1 if torch.equal(best, argmax) else 0
        argmax = best
        confident = float(entropy.mean()) < denoise.confidence_threshold
        if denoise.early_stop and unchanged >= denoise.stability and confident:
            break
        fresh = noise.random_tokens(keys_12, now, noise.RENOISE, length, vocab)
        canvas = torch.where(keep, sample, fresh[0])[None]
        conditioning = scaled
    return argmax[0].tolist(), step + 1


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("acceptance", ["cumulative", "each"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_engine_is_the_papers_algorithm_token_for_token(
    seed: int, acceptance: Literal["cumulative", "each"], early_stop: bool
) -> None:
    model = random_model(seed, spread=2.0, peaked=30.0)
    denoise = DenoiseConfig(
        max_steps=16,
        entropy_bound=2.0 if acceptance == "cumulative" else 0.4,
        acceptance=acceptance,
        confidence_threshold=0.2,
        early_stop=early_stop,
    )
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(20, model.config.vocab_size, (4, 9), generator=generator)
    keys = torch.tensor([noise.row_keys(f"segment {row}", seed) for row in range(4)], dtype=torch.int32)
    tokens, steps = ours(model, prompts, denoise, keys)
    wanted = [literal(model, prompts[row : row + 1], denoise, keys[row : row + 1]) for row in range(4)]
    assert tokens.tolist() == [row for row, _ in wanted]
    assert steps == [taken for _, taken in wanted]
    assert len({tuple(row) for row, _ in wanted}) == 4
