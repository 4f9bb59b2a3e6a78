"""The engine against a literal, slow implementation of the algorithm in the model's paper (arXiv 2607.13013)."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.denoise.lane import Lane, Prepared
from pipeline.model.network import backbone
from pipeline.model.recogniser import AsrModel
from tests.support.small_model import random_model


def literal(
    model: AsrModel, prompt_1P: Tensor, real: int, denoise: DenoiseConfig, keys_12: Tensor
) -> tuple[list[int], int]:
    """One row: dense logits, masks, the prompt encoded anew in each step, no tiles and no lanes. Tokens, steps taken.

    real: audio slots with sound; the mask hides the others.
    """
    length, vocab = model.config.canvas_length, model.config.vocab_size
    start, end = model.audio_start, model.audio_start + model.config.audio_slots
    mask = torch.ones(prompt_1P.shape, dtype=torch.int64)
    mask[:, start + real : end] = 0
    seen, deaf = (torch.cat([mask, torch.ones(1, length, dtype=torch.int64)], dim=1) for _ in range(2))
    deaf[:, start:end] = 0
    first = torch.zeros(1, dtype=torch.int32)
    canvas = noise.random_tokens(keys_12, first, noise.CANVAS, length, vocab)
    conditioning, argmax, unchanged = None, torch.full((1, length), -1), 0
    for step in range(denoise.max_steps):
        temperature = denoise.temperature_min + (denoise.temperature_max - denoise.temperature_min) * (
            (denoise.max_steps - step) / denoise.max_steps
        )
        with_audio, without = (
            model.backbone(
                input_ids=prompt_1P,
                attention_mask=mask,
                decoder_input_ids=canvas,
                decoder_attention_mask=view,
                self_conditioning_logits=conditioning,
            ).logits
            for view in (seen, deaf)
        )
        logits = without + denoise.guidance * (with_audio - without)
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


def ours(
    model: AsrModel, prompts: Tensor, real: list[int], denoise: DenoiseConfig, keys: Tensor
) -> tuple[list[list[int]], list[int]]:
    """The rows of a lane, one for each prompt."""
    kept = [model.prompt_length - model.config.audio_slots + slots for slots in real]
    positions = model.real_positions(torch.tensor(real), model.prompt_length, max(kept))
    embeds = backbone.at(backbone.embed(model.backbone, prompts), positions)
    kv, _ = backbone.prefill(model.backbone, embeds, positions)
    lane = Lane(model, slots=len(prompts), canvas_length=model.config.canvas_length, denoise=denoise, tile=128)
    for row in range(len(prompts)):
        lane.admit(Prepared(row, tuple(keys[row].tolist()), kv, row, kept=kept[row]))
    answers = {}
    while lane.active:
        answers |= {finished.job: finished.canvas for finished in lane.denoise_once()}
    return [answers[row].tokens for row in range(len(prompts))], [answers[row].steps for row in range(len(prompts))]


@pytest.mark.parametrize("guidance", [1.0, 1.7])
@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("acceptance", ["cumulative", "each"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_engine_is_the_papers_algorithm_token_for_token(
    seed: int, acceptance: Literal["cumulative", "each"], early_stop: bool, guidance: float
) -> None:
    model = random_model(seed, spread=2.0, peaked=30.0)
    denoise = DenoiseConfig(
        max_steps=12,
        entropy_bound=2.0 if acceptance == "cumulative" else 0.4,
        acceptance=acceptance,
        confidence_threshold=0.2,
        early_stop=early_stop,
        guidance=guidance,
    )
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(20, model.config.vocab_size, (4, model.prompt_length), generator=generator)
    real = [7, 3, 5, 1]
    keys = torch.tensor([noise.row_keys(f"segment {row}", seed) for row in range(4)], dtype=torch.int32)
    tokens, steps = ours(model, prompts, real, denoise, keys)
    wanted = [
        literal(model, prompts[row : row + 1], real[row], denoise, keys[row : row + 1]) for row in range(len(real))
    ]
    assert tokens == [row for row, _ in wanted]
    assert steps == [taken for _, taken in wanted]
    assert len({tuple(row) for row, _ in wanted}) == 4
