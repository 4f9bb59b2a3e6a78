"""Canvas lengths: which there are, which a segment gets, and that `auto` loses no text to a short canvas."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import canvas_policy
from pipeline.model.denoise.engine import Engine
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment
from tests.support.small_model import random_model


def segments(count: int, seconds: float) -> list[Segment]:
    generator = np.random.default_rng(0)
    samples = round(seconds * 16_000)
    pcm = [(generator.standard_normal(samples) * 3000).astype("<i2").tobytes() for _ in range(count)]
    return [Segment(f"{row}", "en", sound) for row, sound in enumerate(pcm)]


@pytest.mark.parametrize(
    ("setting", "own", "expected"),
    [(None, 192, (192,)), (64, 192, (64,)), ("auto", 192, (64, 128, 192)), ("auto", 16, (8, 16)), ("auto", 8, (8,))],
)
def test_lengths_end_with_the_full_canvas(setting: int | str | None, own: int, expected: tuple[int, ...]) -> None:
    assert canvas_policy.lengths(setting, own=own) == expected


@pytest.mark.parametrize("prompt", range(1, 97))
def test_auto_buckets_avoid_key_lengths_of_one_mod_32(prompt: int) -> None:
    lengths = canvas_policy.lengths("auto", own=192, prompt=prompt)
    assert all((prompt + length) % 32 != 1 for length in lengths[:-1])


def test_prompt_of_33_moves_a_bucket_of_64_away_from_the_trap() -> None:
    assert canvas_policy.lengths("auto", own=192, prompt=33) == (72, 136, 192)


def test_no_attention_mask_is_passed_by_prefill_or_steps() -> None:
    """All rows have one length, so there is nothing to mask; a mask could meet PyTorch's issue 191937."""
    masks = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(*arguments: torch.Tensor, attn_mask: torch.Tensor | None = None, **settings: object) -> torch.Tensor:
        masks.append(attn_mask)
        return attention(*arguments, attn_mask=attn_mask, **settings)

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", spy):
        engine = Engine(random_model(0), DenoiseConfig(max_steps=2), slots=2)
        engine.transcribe(segments(2, 0.5))
        engine.close()
    assert len(masks) >= 3 * 3  # three layers: one prefill, two steps; and the audio encoder
    assert all(mask is None for mask in masks)


@pytest.mark.parametrize(
    ("seconds", "expected"),  # 192 tokens per 30 s, margin 1.25: 8 tokens per second, and 2
    [(0.1, 64), (7.75, 64), (7.8, 128), (15.75, 128), (15.8, 192), (30.0, 192)],
)
def test_choice_takes_the_shortest_canvas_that_should_do(seconds: float, expected: int) -> None:
    assert canvas_policy.choose((64, 128, 192), seconds=seconds, window_seconds=30.0) == expected


def never_ends(model: AsrModel) -> AsrModel:
    """A model without end tokens: every row fills every canvas."""
    model.config = model.config.model_copy(update={"tokens": model.config.tokens.model_copy(update={"eos": [10**6]})})
    return model


@pytest.mark.parametrize("endless", [True, False])
def test_auto_overflows_only_where_the_full_canvas_does(endless: bool) -> None:
    model = random_model(3, spread=2.0, peaked=30.0, canvas_length=24)
    model = never_ends(model) if endless else ends_anywhere(model)
    work = segments(6, 0.2)
    results = {}
    for setting in ("auto", None):
        engine = Engine(model, DenoiseConfig(max_steps=3, canvas_length=setting), slots=2)
        results[setting] = engine.transcribe(work)
        if setting == "auto":
            assert engine.reruns == (6 if endless else 0)
        engine.close()
    assert [r.overflow for r in results[None]] == [endless] * 6
    if endless:  # run again on the full canvas with its own noise: the same answer as without `auto`
        assert results["auto"] == results[None]
    else:
        assert [r.canvas_length for r in results["auto"]] == [8] * 6
        assert not any(r.overflow for r in results["auto"])


def ends_anywhere(model: AsrModel) -> AsrModel:
    """A model for which every token is an end token: no row fills its canvas."""
    tokens = model.config.tokens.model_copy(update={"eos": list(range(model.config.vocab_size))})
    model.config = model.config.model_copy(update={"tokens": tokens})
    return model


def test_fixed_canvas_is_never_run_again() -> None:
    engine = Engine(never_ends(random_model(0)), DenoiseConfig(max_steps=2, canvas_length=8), slots=2)
    (result,) = engine.transcribe(segments(1, 1.0))
    engine.close()
    assert (engine.reruns, result.canvas_length, result.overflow) == (0, 8, True)
