"""The order of the engine's work: no lane waits forever, and prompts are ready before slots become free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import canvas_policy
from pipeline.model.denoise.compiled import Calls
from pipeline.model.denoise.ctc import greedy
from pipeline.model.denoise.scheduler import PATIENCE, Job, Scheduler
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment
from tests.support.small_model import noise_segment, random_model

STEPS = 3


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return random_model(0, canvas_length=24)


def scheduler(
    model: AsrModel, *, slots: int, canvas: Any = "auto", calls: Calls | None = None, **more: Any
) -> Scheduler:
    denoise = DenoiseConfig(max_steps=STEPS, canvas_length=canvas, early_stop=False)
    made = Scheduler(model, denoise, slots=slots, calls=calls or Calls.make(compile=False), **more)
    made.make_lanes()
    return made


def job(number: int, length: int) -> Job:
    return Job(noise_segment(number), number, length)


def turns_until(made: Scheduler, number: int, keep_full: list[int]) -> int:
    """Turns until the job ends, while new segments for the lanes of `keep_full` wait behind it."""
    for turn in range(1, 200):
        for length in keep_full * (2 * made.slots):
            made.add(job(1000 + turn, length))
        if any(finished.job.future == number for finished in made.turn()):
            return turn
    raise AssertionError("it waits for ever")


@pytest.mark.parametrize("short", [8, 16, 24])
def test_a_segment_waits_a_bounded_number_of_turns_beside_full_lanes(model: AsrModel, short: int) -> None:
    made = scheduler(model, slots=3)
    assert made.lengths == (8, 16, 24)
    others = [length for length in made.lengths if length != short]
    for length in others * (2 * made.slots):
        made.add(job(100, length))
    while any(made.lanes[length].free for length in others):
        made.turn()
    assert [made.lanes[length].free for length in others] == [0, 0]
    rounds = 1 + -(-len(made.pending) // made.slots)  # those of the segments that came before it, and its own
    made.add(job(7, short))
    assert turns_until(made, 7, others) <= rounds * STEPS * (PATIENCE + len(made.lengths) - 1)
    assert made.pending  # many others wait still


def test_equally_full_lanes_take_turns(model: AsrModel) -> None:
    made = scheduler(model, slots=2)
    for number in range(30):
        made.add(job(number, (8, 16, 24)[number % 3]))
    lanes = made.lanes.values()
    while any(lane.free for lane in lanes):
        made.turn()
    before = [lane.row_steps_computed for lane in lanes]
    for _ in lanes:
        made.turn()
    assert [lane.row_steps_computed - count for lane, count in zip(lanes, before, strict=True)] == [2, 2, 2]


def test_a_segment_that_is_run_again_does_not_queue_behind_the_others(model: AsrModel) -> None:
    made = scheduler(model, slots=1, canvas=24)
    for number in range(4):
        made.add(job(number, 24))
    made.add(job(9, 24), first=True)
    assert turns_until(made, 9, []) == STEPS


def test_prompts_of_waiting_segments_are_ready_while_all_slots_are_busy(model: AsrModel) -> None:
    """Features, encoder, projector and prefill have run for them. A free slot is filled in the next turn."""
    batches: list[int] = []
    plain = Calls.make(compile=False)

    def audio_vectors(own: AsrModel, mel: torch.Tensor) -> torch.Tensor:
        batches.append(len(mel))
        return plain.audio_vectors(own, mel)

    made = scheduler(model, slots=4, canvas=24, prefill_batch=2, calls=replace(plain, audio_vectors=audio_vectors))
    for number in range(12):
        made.add(job(number, 24))
    made.turn()
    lane, ready = made.lanes[24], made.ready[24]
    assert (lane.free, len(ready), len(made.pending)) == (0, 2, 6)
    assert batches == [2, 2, 2]
    assert [prepared.job.future for prepared in ready] == [4, 5]
    for prepared in ready:
        alone = made.prompts([prepared.job.segment]).kv
        for own, expected in zip(prepared.kv.layers, alone.layers, strict=True):
            kept = slice(0, prepared.kept)
            for mine, other in ((own.keys, expected.keys), (own.values, expected.values)):
                torch.testing.assert_close(mine[prepared.row, :, kept], other[0, :, kept], atol=1e-4, rtol=1e-4)
    while not made.idle:
        made.turn()
        assert len(ready) <= 3  # a batch and the half that may be left of one


def test_what_is_ahead_runs_after_the_step_has_started_and_before_its_result_is_awaited(model: AsrModel) -> None:
    order: list[str] = []
    plain = Calls.make(compile=False)

    def noted(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            order.append(name)
            return getattr(plain, name)(*arguments)

        return call

    calls = replace(plain, denoise=noted("denoise"), prefill=noted("prefill"))
    made = scheduler(model, slots=2, canvas=24, prefill_batch=2, calls=calls)
    for number in range(4):
        made.add(job(number, 24))
    made.turn()
    assert order == ["prefill", "denoise", "prefill"]


def test_one_turn_prefills_at_most_the_slots_and_one_batch(model: AsrModel) -> None:
    """Whatever number of segments waits, in any number of lanes: the next step comes at most so much later."""
    made = scheduler(model, slots=5, prefill_batch=2)
    for number in range(60):
        made.add(job(number, (8, 16, 24)[number % 3]))
    made.turn()
    assert 60 - len(made.pending) == 3 * 2 + 2


def test_a_prefill_batch_is_a_quarter_of_the_slots_where_none_is_given(model: AsrModel) -> None:
    assert [scheduler(model, slots=slots, canvas=8).prefill_batch for slots in (1, 4, 6, 64)] == [1, 1, 2, 16]


def test_prompts_that_wait_for_a_full_lane_are_two_batches_at_most(model: AsrModel) -> None:
    made = scheduler(model, slots=3, prefill_batch=2)
    for number in range(30):
        made.add(job(number, 8))
    while not made.idle:
        made.turn()
        assert made.prefilled <= 2 * made.prefill_batch


def test_the_lane_of_a_segment_follows_from_the_tokens_that_ctc_hears(model: AsrModel) -> None:
    """Whatever its seconds are: of 4 heard tokens 5 and the end tokens fit 8 positions; 5 want more."""
    generator = torch.Generator().manual_seed(0)
    shape = (model.prompt_length, model.config.hidden_size)

    def spoken(rows: list[Segment]) -> torch.Tensor:
        return torch.randn(len(rows), *shape, generator=generator)  # each slot another token

    made = scheduler(model, slots=30, prefill_batch=30, embed=spoken)
    blank = model.config.tokens.ctc_blank
    for number in range(30):
        made.add(Job(noise_segment(number, seconds=0.1 + number / 40), number))
    made.turn()
    lengths: dict[int, int] = {}
    for length, lane in made.lanes.items():
        for one in lane.jobs:
            lengths[len(greedy(one.slots, blank=blank))] = length
            assert one.length == length
    assert {4, 5} <= set(lengths)
    assert lengths == {tokens: canvas_policy.choose((8, 16, 24), tokens=tokens) for tokens in lengths}
