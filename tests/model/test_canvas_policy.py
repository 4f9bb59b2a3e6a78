"""Canvas lengths: which there are, which a segment gets, and that `auto` loses no text to a short canvas."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import canvas_policy
from pipeline.model.denoise.compiled import prompt_widths
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


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("prompt", "slots", "canvas"), [(208, 188, 192), (39, 32, 16), (200, 188, 61), (9, 7, 8)])
def test_prompt_and_canvas_of_a_step_are_a_multiple_of_8_together(
    prompt: int, slots: int, canvas: int, static: bool
) -> None:
    """PyTorch's issue 191937: wrong results with a mask, bfloat16 and a length of 1 mod 32."""
    widths = prompt_widths(prompt, slots, canvas, static=static)
    assert all((width + canvas) % 8 == 0 for width in widths)
    assert prompt <= widths[-1] < prompt + 8  # the last one has room for a whole prompt
    assert list(widths) == sorted(set(widths))
    assert len(widths) <= (4 if static else -(-slots // 8) + 1)


@pytest.mark.parametrize(
    ("tokens", "expected"),  # margin 1.25, and 2 end tokens
    [(0, 64), (49, 64), (50, 128), (100, 128), (101, 192), (500, 192)],
)
def test_choice_takes_the_shortest_canvas_that_should_do(tokens: int, expected: int) -> None:
    assert canvas_policy.choose((64, 128, 192), tokens=tokens) == expected


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
