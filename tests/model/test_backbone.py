"""`prefill` and `denoise` are transformers' own encoder and decoder, with embeddings for tokens and logits."""

from __future__ import annotations

import pytest
import torch

from pipeline.model.network import backbone
from pipeline.model.network.backbone import PromptKV
from pipeline.model.recogniser import AsrModel
from tests.support.small_model import random_model

BATCH, PROMPT = 3, 11


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return random_model(spread=2.0)


@pytest.fixture(scope="module")
def prompts(model: AsrModel) -> torch.Tensor:
    return torch.randint(20, model.config.vocab_size, (BATCH, PROMPT), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def canvas(model: AsrModel) -> torch.Tensor:
    shape = (BATCH, model.config.canvas_length)
    return torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def prefilled(model: AsrModel, prompts: torch.Tensor) -> PromptKV:
    return backbone.prefill(model.backbone, backbone.embed(model.backbone, prompts))[0]


def nothing(model: AsrModel, canvas: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*canvas.shape, model.config.hidden_size)


def test_prefill_of_text_embeddings_equals_transformers_encoder(model: AsrModel, prompts: torch.Tensor) -> None:
    stock = model.backbone.model.encoder(input_ids=prompts)
    cache, hidden = backbone.prefill(model.backbone, backbone.embed(model.backbone, prompts))
    torch.testing.assert_close(hidden, stock.last_hidden_state)
    assert cache.length == PROMPT
    assert len(cache.layers) == len(stock.past_key_values.layers) == 3
    for ours, theirs in zip(cache.layers, stock.past_key_values.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys)
        torch.testing.assert_close(ours.values, theirs.values)


def test_decode_with_soft_embeddings_equals_transformers_decoder_with_the_logits(
    model: AsrModel, prompts: torch.Tensor, canvas: torch.Tensor
) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(*canvas.shape, model.config.vocab_size, generator=generator) * 5
    stock = model.backbone.model.decoder(
        decoder_input_ids=canvas,
        past_key_values=model.backbone.model.encoder(input_ids=prompts).past_key_values,
        self_conditioning_logits=logits,
    )
    soft = logits.softmax(-1) @ model.backbone.lm_head.weight
    hidden = backbone.denoise(model.backbone, canvas, soft, prefilled(model, prompts))
    torch.testing.assert_close(hidden, stock.last_hidden_state, atol=1e-4, rtol=1e-4)
    unconditioned = backbone.denoise(model.backbone, canvas, soft * 0, prefilled(model, prompts))
    assert float((hidden - unconditioned).abs().max()) > 0.01  # what was compared does depend on the soft embeddings


def test_zeros_are_transformers_first_step_and_logits_are_softcapped(
    model: AsrModel, prompts: torch.Tensor, canvas: torch.Tensor
) -> None:
    stock = model.backbone(input_ids=prompts, decoder_input_ids=canvas)
    hidden = backbone.denoise(model.backbone, canvas, nothing(model, canvas), prefilled(model, prompts))
    torch.testing.assert_close(backbone.softcapped_logits(model.backbone, hidden), stock.logits, atol=1e-4, rtol=1e-4)
    huge = backbone.softcapped_logits(model.backbone, hidden * 1e6)
    assert float(huge.abs().max()) == 30.0


def test_the_decoder_leaves_the_prompt_cache_as_it_is(
    model: AsrModel, prompts: torch.Tensor, canvas: torch.Tensor
) -> None:
    cache = prefilled(model, prompts)
    before = [layer.keys.clone() for layer in cache.layers]
    backbone.denoise(model.backbone, canvas, nothing(model, canvas), cache)
    assert cache.length == PROMPT
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, before, strict=True))


def test_the_canvas_is_read_in_both_directions_and_the_prompt_in_one(
    model: AsrModel, prompts: torch.Tensor, canvas: torch.Tensor
) -> None:
    changed = canvas.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.config.vocab_size
    cache = prefilled(model, prompts)
    one = backbone.denoise(model.backbone, canvas, nothing(model, canvas), cache)
    other = backbone.denoise(model.backbone, changed, nothing(model, canvas), cache)
    assert float((one - other)[:, 0].abs().max()) > 1e-4  # the last token reaches the first position
    changed = prompts.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.config.vocab_size
    _, one = backbone.prefill(model.backbone, backbone.embed(model.backbone, prompts))
    _, other = backbone.prefill(model.backbone, backbone.embed(model.backbone, changed))
    torch.testing.assert_close(one[:, :-1], other[:, :-1])
    assert float((one - other)[:, -1].abs().max()) > 1e-4


def test_a_cut_cache_is_the_cache_of_the_shorter_prompt(model: AsrModel, prompts: torch.Tensor) -> None:
    cut, short = prefilled(model, prompts).cut(7), prefilled(model, prompts[:, :7])
    assert cut.length == short.length == 7
    for a, b in zip(cut.layers, short.layers, strict=True):
        torch.testing.assert_close(a.keys, b.keys)
        torch.testing.assert_close(a.values, b.values)


def test_rows_and_repeat_pick_rows(model: AsrModel, prompts: torch.Tensor) -> None:
    cache = prefilled(model, prompts)
    picked, repeated = cache.rows(torch.tensor([2, 0])), cache.repeat(2)
    for layer, p, r in zip(cache.layers, picked.layers, repeated.layers, strict=True):
        assert torch.equal(p.keys, torch.stack([layer.keys[2], layer.keys[0]]))
        assert torch.equal(p.values, torch.stack([layer.values[2], layer.values[0]]))
        assert torch.equal(r.values, layer.values[[0, 0, 1, 1, 2, 2]])
        assert torch.equal(r.keys, layer.keys[[0, 0, 1, 1, 2, 2]])


def test_embeddings_are_scaled_by_the_root_of_the_hidden_size(model: AsrModel) -> None:
    row = model.backbone.lm_head.weight[33]
    torch.testing.assert_close(backbone.embed(model.backbone, torch.tensor([33]))[0], row * 64**0.5)
