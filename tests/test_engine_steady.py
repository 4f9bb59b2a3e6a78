"""The engine in the long run: little wasted work, no recompilation, memory running out, logits that are not finite."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor

from pipeline.config import DenoiseConfig
from pipeline.model import lane as lane_module
from pipeline.model import sampler
from pipeline.model.checkpoint import AsrModel
from pipeline.model.compiled import Calls, slot_buckets
from pipeline.model.engine import Engine, EngineDead
from pipeline.schemas import Segment
from tests.small_model import random_model

QUIET = b"\0\0" * 1600


def segments(count: int) -> list[Segment]:
    return [Segment(f"segment {number}", None, QUIET) for number in range(count)]


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return random_model(0, canvas_length=8)


@pytest.fixture
def engine(model: AsrModel) -> Iterator[Engine]:
    made = Engine(model, DenoiseConfig(max_steps=3), slots=4)
    yield made
    made.close()


def spread_steps(keys: Tensor) -> Tensor:
    """A stopping step for every row from its key: 4 to 16, mostly 6 to 9, as speech of mixed difficulty stops."""
    draw = keys[:, 0] % 100
    return (4 + draw % 6 + torch.where(draw >= 85, draw - 85, 0)).clamp(max=16)


@pytest.mark.timeout(400)
def test_work_is_at_most_a_tenth_above_need_over_2000_segments(model: AsrModel) -> None:
    """Slots refill at once: only the end of the job computes idle rows. The trunk is replaced by zeros for speed."""
    plain = Calls.make(compile=False)

    def decode(_model: object, canvas: Tensor, soft: Tensor, _prompt: object) -> Tensor:
        shapes.add(len(canvas))
        return torch.zeros_like(soft)

    def stops(unchanged: Tensor, entropy: Tensor, step: Tensor, **_: object) -> Tensor:
        del unchanged, entropy
        keys = engine.scheduler.lanes[8].keys[: len(step)]
        return step + 1 >= spread_steps(keys)

    shapes: set[int] = set()
    calls = Calls(decode, plain.tile_step, plain.prefill, static=True)
    with mock.patch.object(Calls, "make", return_value=calls):
        embeds = torch.zeros(16, model.prompt_length, model.config.hidden_size)
        engine = Engine(
            model, DenoiseConfig(max_steps=16), slots=16, prefill_batch=16, embed=lambda rows: embeds[: len(rows)]
        )
    with mock.patch.object(sampler, "stops", stops):
        results = engine.transcribe(segments(2000))
        engine.close()
    steps = [result.steps for result in results]
    assert (min(steps), max(steps)) == (4, 16)
    computed, needed = engine.scheduler.row_steps
    assert needed == sum(steps)
    assert 1.0 <= computed / needed <= 1.10
    assert shapes == set(slot_buckets(16, static=True))


def test_slot_buckets_are_few_where_shapes_are_static() -> None:
    assert slot_buckets(16, static=True) == (1, 4, 16)
    assert slot_buckets(6, static=True) == (1, 6)
    assert slot_buckets(3, static=False) == (1, 2, 3)


@pytest.mark.timeout(600)
def test_compiled_engine_does_not_recompile_and_agrees_with_the_plain_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = random_model(1, spread=2.0, peaked=30.0, canvas_length=8, experts=2)
    denoise = DenoiseConfig(max_steps=6, entropy_bound=2.0, confidence_threshold=0.2)
    cache = tmp_path_factory.mktemp("compiled")
    with mock.patch.dict("os.environ"):
        compiled = Engine(model, denoise, slots=4, prefill_batch=2, compile=True, compile_cache=str(cache))
        answers = compiled.transcribe(segments(11)) + compiled.transcribe(segments(1))
        compiled.close()
    assert compiled.scheduler.recompilations == 0
    assert any(cache.iterdir())
    plain = Engine(model, denoise, slots=4)
    expected = plain.transcribe(segments(11)) + plain.transcribe(segments(1))
    plain.close()
    assert [a.text for a in answers] == [e.text for e in expected]
    assert [a.steps for a in answers] == [e.steps for e in expected]


@pytest.mark.parametrize("where", ["decode", "prefill"])
def test_memory_exhaustion_halves_the_slots_once_and_loses_no_row(
    model: AsrModel, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = Calls.make(compile=False)
    calls_left = {"decode": 2, "prefill": 1}

    def failing(name: str):  # type: ignore[no-untyped-def]
        def call(*arguments: object) -> object:
            if name == where:
                calls_left[name] -= 1
                if calls_left[name] == -1:
                    raise torch.OutOfMemoryError("injected")
            return getattr(plain, name)(*arguments)

        return call

    failing_calls = Calls(failing("decode"), plain.tile_step, failing("prefill"), static=False)
    work, denoise = segments(9), DenoiseConfig(max_steps=3)
    with mock.patch.object(Calls, "make", return_value=failing_calls), caplog.at_level(logging.WARNING):
        engine = Engine(model, denoise, slots=4, prefill_batch=4)
        answers = engine.transcribe(work)
        engine.close()
    assert calls_left[where] < -1  # the fault was met and the work went on
    assert (engine.scheduler.slots, engine.scheduler.prefill_batch) == (2, 2)
    assert [record.message for record in caplog.records] == ["accelerator memory is exhausted: 4 canvas slots become 2"]
    calm = Engine(model, denoise, slots=4)
    assert [a.text for a in answers] == [e.text for e in calm.transcribe(work)]
    calm.close()


def test_memory_exhaustion_with_one_slot_ends_the_engine(model: AsrModel) -> None:
    engine = Engine(model, DenoiseConfig(max_steps=2), slots=1)
    with mock.patch.object(lane_module.Lane, "denoise_once", side_effect=torch.OutOfMemoryError("injected")):
        future = engine.submit(segments(1)[0])
        with pytest.raises(EngineDead, match="injected"):
            future.result(timeout=60)


def test_a_row_without_finite_logits_fails_alone(engine: Engine) -> None:
    embeds = engine.scheduler.prompt_embeds

    def poisoned(rows: list[Segment]) -> Tensor:
        made = embeds(rows)
        made[[row.key == "segment 2" for row in rows]] = torch.nan
        return made

    with mock.patch.object(engine.scheduler, "prompt_embeds", poisoned):
        answers = engine.transcribe(segments(6))
    assert [a.text is None for a in answers] == [False, False, True, False, False, False]
    assert answers[2].error == "logits are not finite"


def test_repeated_rows_without_finite_logits_end_the_engine(model: AsrModel) -> None:
    engine = Engine(model, DenoiseConfig(max_steps=3), slots=4)
    shape = (model.prompt_length, model.config.hidden_size)
    with mock.patch.object(engine.scheduler, "prompt_embeds", lambda rows: torch.full((len(rows), *shape), torch.nan)):
        futures = [engine.submit(segment) for segment in segments(12)]
        errors = [future.exception(timeout=60) for future in futures]
    assert [error is None for error in errors] == [True] * 7 + [False] * 5  # seven dead letters, then the end
    assert all(isinstance(error, EngineDead) for error in errors[7:])
    with pytest.raises(EngineDead):
        engine.submit(segments(1)[0])
