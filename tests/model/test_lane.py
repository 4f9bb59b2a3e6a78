"""Canvas slots: rows come and go at different times, and each ends as if it were alone."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import lane as lane_module
from pipeline.model.denoise import noise
from pipeline.model.denoise.lane import Finished, Lane, Prepared
from pipeline.model.denoise.signals import FinalCanvas
from pipeline.model.network import backbone
from pipeline.model.network.backbone import PromptKV
from pipeline.model.recogniser import AsrModel
from tests.support.small_model import random_model

DENOISE = DenoiseConfig(max_steps=10, entropy_bound=2.0, confidence_threshold=0.2)
ROWS = 7


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return random_model(3, spread=2.0, peaked=30.0, canvas_length=8)


@pytest.fixture(scope="module")
def cache(model: AsrModel) -> PromptKV:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(20, model.config.vocab_size, (ROWS, model.prompt_length), generator=generator)
    return backbone.prefill(model.backbone, backbone.embed(model.backbone, tokens))[0]


def lane_of(model: AsrModel, slots: int, denoise: DenoiseConfig = DENOISE, canvas_length: int = 8) -> Lane:
    return Lane(model, slots=slots, canvas_length=canvas_length, denoise=denoise)


def prepared(cache: PromptKV, row: int, *, seed: int = 0) -> Prepared:
    return Prepared(row, noise.row_keys(f"segment {row}", seed), cache, row)


def drain(lane: Lane, waiting: list[Prepared] | None = None) -> dict[Any, FinalCanvas | None]:
    """Step until the lane is empty. A free slot takes the next of `waiting` at once."""
    answers: dict[Any, FinalCanvas | None] = {}
    queue = list(waiting or [])
    while queue or lane.active:
        while queue and lane.free:
            lane.admit(queue.pop(0))
        answers |= {finished.job: finished.canvas for finished in lane.denoise_once()}
    return answers


@pytest.fixture(scope="module")
def alone(model: AsrModel, cache: PromptKV) -> list[FinalCanvas]:
    """The result of each row in a lane of its own."""
    answers = [drain(lane_of(model, 1), [prepared(cache, row)])[row] for row in range(ROWS)]
    return [canvas for canvas in answers if canvas is not None]


def same(one: FinalCanvas | None, other: FinalCanvas) -> bool:
    """Equal tokens and steps; equal probabilities and entropies except for rounding, which depends on the batch."""
    assert one is not None
    torch.testing.assert_close(one.probability, other.probability, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.entropy, other.entropy, atol=1e-3, rtol=1e-3)
    exact = ("tokens", "stable_since", "revisions", "steps")
    return all(getattr(one, name) == getattr(other, name) for name in exact)


@pytest.mark.parametrize("slots", [2, 3, 5, 16])
def test_a_row_ends_as_if_alone_whatever_its_neighbours(
    model: AsrModel, cache: PromptKV, alone: list[FinalCanvas], slots: int
) -> None:
    assert len({canvas.steps for canvas in alone}) > 2  # rows leave at different times
    for order in (list(range(ROWS)), list(reversed(range(ROWS)))):
        answers = drain(lane_of(model, slots), [prepared(cache, row) for row in order])
        assert sorted(answers) == list(range(ROWS))
        assert all(same(answers[row], alone[row]) for row in range(ROWS))


def test_a_slot_keeps_nothing_of_its_last_row(model: AsrModel, cache: PromptKV, alone: list[FinalCanvas]) -> None:
    used, fresh = lane_of(model, 2), lane_of(model, 2)
    drain(used, [prepared(cache, row) for row in (4, 5, 6)])
    for lane in (used, fresh):
        lane.admit(prepared(cache, 1))
    for name in ("keys", "kept", "step", "canvas", "argmax", "unchanged", "soft", "stable_since", "revisions"):
        assert torch.equal(getattr(used, name)[0], getattr(fresh, name)[0]), name
    assert same(drain(used)[1], alone[1])


def test_a_row_admitted_late_counts_its_own_steps(model: AsrModel, cache: PromptKV, alone: list[FinalCanvas]) -> None:
    lane = lane_of(model, 4, DENOISE.model_copy(update={"early_stop": False}))
    lane.admit(prepared(cache, 0))
    ended: dict[int, int] = {}
    for step in range(1, 14):
        if step == 4:
            lane.admit(prepared(cache, 1))
        ended |= {finished.job: step for finished in lane.denoise_once()}
    assert ended == {0: 10, 1: 13}


def test_seeds_and_prompts_make_the_difference(model: AsrModel, cache: PromptKV, alone: list[FinalCanvas]) -> None:
    other = drain(lane_of(model, 1), [prepared(cache, 0, seed=1)])[0]
    assert other is not None
    assert other.tokens != alone[0].tokens
    swapped = Prepared(0, noise.row_keys("segment 0", 0), cache, 1)  # the noise of row 0, the prompt of row 1
    answer = drain(lane_of(model, 1), [swapped])[0]
    assert answer is not None
    assert answer.tokens != alone[0].tokens


def test_stability_and_revisions_by_hand(model: AsrModel, cache: PromptKV) -> None:
    """Computed from the argmax canvases of the single steps in the lane."""
    lane = lane_of(model, 1, DenoiseConfig(max_steps=6, entropy_bound=2.0, early_stop=False))
    lane.admit(prepared(cache, 2))
    history: list[list[int]] = []
    finished: list[Finished] = []
    while not finished:
        finished = lane.denoise_once()
        history.append(lane.argmax[0].tolist())
    canvas = finished[0].canvas
    assert canvas is not None
    assert canvas.tokens == history[-1]
    changes = [[step for step in range(1, 6) if history[step][i] != history[step - 1][i]] for i in range(8)]
    assert canvas.revisions == [len(steps) for steps in changes]
    assert canvas.stable_since == [steps[-1] + 1 if steps else 1 for steps in changes]
    assert max(canvas.revisions) > 0
    assert (canvas.steps, len(history)) == (6, 6)


def test_rows_without_finite_logits_leave_at_once_and_alone(
    model: AsrModel, cache: PromptKV, alone: list[FinalCanvas]
) -> None:
    poisoned = cache.rows(slice(None)).cut(cache.length)
    poisoned.layers[1].keys = poisoned.layers[1].keys.clone()
    poisoned.layers[1].keys[3] = torch.nan
    lane = lane_of(model, 4)
    for row in (2, 3, 4):
        lane.admit(prepared(poisoned, row))
    first = lane.denoise_once()
    assert [(finished.job, finished.canvas) for finished in first if finished.canvas is None] == [(3, None)]
    answers = {finished.job: finished.canvas for finished in first} | drain(lane, [prepared(cache, 5)])
    assert all(same(answers[row], alone[row]) for row in (2, 4, 5))  # 5 may have taken the slot of 3


@pytest.mark.parametrize("early", [True, False])
def test_signals_are_the_same_whether_the_last_step_computes_them_or_a_pass_of_their_own(
    model: AsrModel, cache: PromptKV, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise = DENOISE.model_copy(update={"early_stop": early, "max_steps": 4})
    waiting = [prepared(cache, row) for row in range(ROWS)]
    inside = drain(lane_of(model, 4, denoise), waiting)
    monkeypatch.setattr(lane_module, "RAW_COST", 0)
    apart = drain(lane_of(model, 4, denoise), waiting)
    assert all(same(inside[row], canvas) for row, canvas in apart.items() if canvas is not None)


def test_rows_that_end_together_at_the_last_step_cost_no_further_head(model: AsrModel, cache: PromptKV) -> None:
    lane = lane_of(model, 4, DENOISE.model_copy(update={"early_stop": False}))
    with mock.patch.object(lane, "final_outputs", side_effect=AssertionError("a further head")):
        answers = drain(lane, [prepared(cache, row) for row in range(4)])
    assert len(answers) == 4


def test_slots_are_counted_and_a_full_lane_refuses(model: AsrModel, cache: PromptKV) -> None:
    lane = lane_of(model, 2)
    assert (lane.active, lane.free) == (0, 2)
    assert lane.denoise_once() == []
    lane.admit(prepared(cache, 0))
    lane.admit(prepared(cache, 1))
    assert (lane.active, lane.free) == (2, 0)
    with pytest.raises(ValueError, match="no free slot"):
        lane.admit(prepared(cache, 2))
    assert sorted(drain(lane)) == [0, 1]
    assert (lane.active, lane.free) == (0, 2)


def test_canvas_length_is_the_lanes(model: AsrModel, cache: PromptKV) -> None:
    canvas = drain(lane_of(model, 1, canvas_length=12), [prepared(cache, 0)])[0]
    assert canvas is not None
    lengths = {len(canvas.tokens), len(canvas.probability), len(canvas.entropy), len(canvas.stable_since)}
    assert lengths == {12}
