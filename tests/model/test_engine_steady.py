"""The engine over many segments: little wasted work, no recompilation, exhausted memory, logits that are not finite."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import compiled as compiled_module
from pipeline.model.denoise import lane as lane_module
from pipeline.model.denoise import sampler
from pipeline.model.denoise.compiled import Calls, compilations, prefill_buckets, slot_buckets
from pipeline.model.denoise.engine import Engine, EngineDead
from pipeline.model.denoise.vocabulary_head import State, run_head
from pipeline.model.network import backbone
from pipeline.model.network.backbone import PromptKV
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment
from tests.support.small_model import noise_segment, random_model

QUIET = b"\0\0" * 1599


def segments(count: int) -> list[Segment]:
    """Quiet sounds that differ in one sample, and so in their noise."""
    return [Segment(f"segment {number}", None, number.to_bytes(2, "little") + QUIET) for number in range(count)]


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return random_model(0, canvas_length=8)


@pytest.fixture
def engine(model: AsrModel) -> Iterator[Engine]:
    made = Engine(model, DenoiseConfig(max_steps=3), slots=4)
    yield made
    made.close()


def spread_steps(keys: Tensor) -> Tensor:
    """The step at which a row stops, from its key: 4 to 16, mostly 6 to 9, as with speech of mixed difficulty."""
    draw = keys[:, 0] % 100
    return (4 + draw % 6 + torch.where(draw >= 85, draw - 85, 0)).clamp(max=16)


@pytest.mark.parametrize(("slots", "prefill_batch"), [(16, 8), (64, 8), (96, None), (128, 8)])
def test_work_is_at_most_a_tenth_above_need_over_2000_segments(
    model: AsrModel, slots: int, prefill_batch: int | None
) -> None:
    """Slots are filled again at once, so only the end of the job computes empty rows. A stand-in model, for speed."""
    plain = Calls.make(compile=False)
    hidden, prompt = model.config.hidden_size, model.prompt_length
    kv = backbone.prefill(model.backbone, torch.zeros(1, prompt, hidden))[0]

    def denoise(_model: object, canvas: Tensor, soft: Tensor, _prompt: object) -> Tensor:
        shapes.add(len(canvas))
        return torch.zeros_like(soft)

    def prefill(_model: object, embeds: Tensor, _positions: Tensor) -> tuple[PromptKV, Tensor]:
        prefills.add(len(embeds))
        return kv.rows(torch.zeros(len(embeds), dtype=torch.int64)), embeds

    def stops(unchanged: Tensor, entropy: Tensor, step: Tensor, **_: object) -> Tensor:
        del unchanged, entropy
        keys = engine.scheduler.lanes[8].keys[: len(step)]
        return step + 1 >= spread_steps(keys)

    shapes: set[int] = set()
    prefills: set[int] = set()
    calls = replace(plain, denoise=denoise, prefill=prefill, tile_step=one_token, static=True)
    with mock.patch.object(Calls, "make", return_value=calls):
        engine = Engine(
            model,
            DenoiseConfig(max_steps=16),
            slots=slots,
            prefill_batch=prefill_batch,
            embed=lambda rows: torch.zeros(len(rows), prompt, hidden),
        )
    with mock.patch.object(sampler, "stops", stops):
        results = engine.transcribe(segments(2000))
        engine.close()
    steps = [result.steps for result in results]
    assert (min(steps), max(steps)) == (4, 16)
    computed, needed = engine.scheduler.row_steps
    assert needed == sum(steps)
    assert 1.0 <= computed / needed <= 1.10
    assert shapes == set(slot_buckets(slots, static=True))
    assert prefills <= set(prefill_buckets(engine.scheduler.prefill_batch, static=True))


def one_token(state: State, hidden: Tensor, *_: object) -> State:
    """A tile step that is certain of token 0."""
    one = torch.ones(len(hidden))
    return state._replace(top=one, mass=one, raw=one, best=one)


def test_buckets_are_few_where_shapes_are_static() -> None:
    assert slot_buckets(16, static=True) == (1, 2, 4, 8, 12, 16)
    assert slot_buckets(6, static=True) == (1, 2, 3, 5, 6)
    assert slot_buckets(1, static=True) == (1,)
    assert slot_buckets(3, static=False) == (1, 2, 3)
    assert prefill_buckets(16, static=True) == (1, 4, 16)
    assert prefill_buckets(3, static=False) == (1, 2, 3)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("backend", "canvas", "slots", "prefill_batch"), [("inductor", None, 1, 1), ("eager", "auto", 2, 1)]
)
def test_compiled_engine_does_not_recompile_and_agrees_with_the_plain_one(
    tmp_path_factory: pytest.TempPathFactory, backend: str, canvas: Any, slots: int, prefill_batch: int
) -> None:
    """From the audio on, with segments of all lengths. A graph that breaks, or one shape too many, would raise.

    The graphs of two canvas lengths are traced and not translated: that is enough to see what compiles again.
    """
    widths: set[int] = set()  # prompt positions that steps read

    def compile_and_watch(function: Any, **settings: Any) -> Any:
        call = torch_compile(function, backend=backend, options=options, **settings)
        if function is not backbone.denoise:
            return call

        def watched(*arguments: Any) -> Any:
            widths.add(arguments[-1].length)
            return call(*arguments)

        return watched

    torch_compile = torch.compile
    model = random_model(1, spread=2.0, peaked=30.0, canvas_length=16 if canvas else 8, experts=2, layers=1)
    denoise = DenoiseConfig(max_steps=6, entropy_bound=2.0, confidence_threshold=0.2, canvas_length=canvas)
    work = [noise_segment(number, seconds=0.05 + 0.095 * number) for number in range(11)]
    cache = tmp_path_factory.mktemp("compiled")
    # Translated here, without a pool of processes that import torch, and to scalar code: half of the time. What users
    # run, code with vectors, is compared in test_lora.
    options = {"compile_threads": 1, "cpp.simdlen": 1} if backend == "inductor" else None
    torch._dynamo.reset()
    before = compilations()
    with mock.patch.dict("os.environ"), mock.patch.object(torch, "compile", compile_and_watch):
        compiled = Engine(
            model, denoise, slots=slots, prefill_batch=prefill_batch, compile=True, compile_cache=str(cache)
        )
        widths.clear()
        answers = compiled.transcribe(work) + compiled.transcribe(work[:1])
        compiled.close()
    assert compilations() - before >= (5 if canvas is None else 11)  # the counter counts
    assert compiled.scheduler.recompilations == 0
    assert widths == {8, 16}  # 5 positions around 1 to 7 slots, rounded up
    assert all(lane.row_steps_needed > 0 for lane in compiled.scheduler.lanes.values())
    assert sorted(compiled.scheduler.lanes) == ([8, 16] if canvas else [8])
    assert any(cache.iterdir()) == (backend == "inductor")
    plain = Engine(model, denoise, slots=4)
    expected = plain.transcribe(work) + plain.transcribe(work[:1])
    plain.close()
    for field in ("text", "steps", "canvas_length"):
        assert [getattr(a, field) for a in answers] == [getattr(e, field) for e in expected]


@pytest.mark.parametrize(("allowed", "enough"), [(12, True), (11, False)])
def test_as_many_shapes_as_allowed_compile_in_any_thread_and_one_more_raises(
    allowed: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch allows 8 by default, counts its settings per thread, and runs slowly and silently beyond the limit."""
    torch._dynamo.reset()
    monkeypatch.setattr(compiled_module, "GRAPHS", allowed)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    calls = Calls.make(compile=True)
    weight = torch.randn(200, 4)

    def work() -> None:
        for rows in range(2, 14):
            hidden, keys = torch.randn(rows, 4), torch.zeros(rows, 2, dtype=torch.int32)
            arguments = {"softcap": 30.0, "temperature_N": torch.ones(rows), "keys_N2": keys, "tile": 64}
            run_head(hidden, weight[:128], step=calls.tile_step, **arguments)

    before = compilations()
    with ThreadPoolExecutor(1) as other, contextlib.ExitStack() as stack:
        if not enough:
            stack.enter_context(pytest.raises(FailOnRecompileLimitHit))
        other.submit(work).result()
    assert compilations() - before == allowed  # one for each number of rows, whichever tile it is


class Faulty:
    """Passes calls on, except those with a number in `times` (the first is 1), which raise what `error` makes."""

    def __init__(self, call: Callable[..., Any], times: set[int], error: Callable[[], Exception]) -> None:
        self.call, self.times, self.error, self.count = call, times, error, 0

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        if self.count in self.times:
            raise self.error()
        return self.call(*arguments)


def of_a_compilation() -> Exception:
    error = RuntimeError("backend='inductor' raised")
    error.__cause__ = torch.OutOfMemoryError("injected")
    return error


@pytest.mark.parametrize("where", ["denoise", "prefill", "audio_vectors", "tile_step"])
@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("injected"),
        lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        of_a_compilation,
    ],
    ids=["torch", "cublas", "compilation"],
)
def test_memory_exhaustion_halves_the_slots_once_and_loses_no_row(
    model: AsrModel, where: str, error: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    plain = Calls.make(compile=False)
    faulty = Faulty(getattr(plain, where), {2}, error)
    work, denoise = segments(9), DenoiseConfig(max_steps=3)
    made = mock.patch.object(Calls, "make", return_value=replace(plain, **{where: faulty}))
    with made, caplog.at_level(logging.WARNING):
        engine = Engine(model, denoise, slots=4, prefill_batch=4)
        answers = engine.transcribe(work)
        engine.close()
    assert faulty.count > 2  # the fault was met and the work went on
    assert (engine.scheduler.slots, engine.scheduler.prefill_batch) == (2, 2)
    assert [record.message for record in caplog.records] == ["accelerator memory is exhausted: 4 canvas slots become 2"]
    calm = Engine(model, denoise, slots=4)
    assert [a.text for a in answers] == [e.text for e in calm.transcribe(work)]
    calm.close()


@pytest.mark.parametrize(
    ("steps", "allocations", "slots"),
    [(set(), {1}, 4), (set(), {1, 2}, 2), (set(), {1, 2, 3}, 1), ({2}, {2}, 2), ({2}, {2, 3}, 1)],
)
def test_memory_that_does_not_suffice_for_the_lanes_halves_them_again(
    model: AsrModel, steps: set[int], allocations: set[int], slots: int
) -> None:
    """In the constructor, and while the slots are halved after a step. The parameters: which calls fail."""

    def out() -> Exception:
        return torch.OutOfMemoryError("injected")

    plain = Calls.make(compile=False)
    calls = replace(plain, denoise=Faulty(plain.denoise, steps, out))
    allocate = Faulty(lane_module.allocate_kv, allocations, out)
    with mock.patch.object(Calls, "make", return_value=calls), mock.patch.object(lane_module, "allocate_kv", allocate):
        engine = Engine(model, DenoiseConfig(max_steps=3), slots=8)
        answers = engine.transcribe(segments(5))
        engine.close()
    assert engine.scheduler.slots == slots
    assert all(answer.text is not None for answer in answers)


def test_memory_that_does_not_suffice_for_one_slot_fails_the_constructor(model: AsrModel) -> None:
    allocate = Faulty(lane_module.allocate_kv, set(range(99)), lambda: torch.OutOfMemoryError("injected"))
    with (
        mock.patch.object(lane_module, "allocate_kv", allocate),
        pytest.raises(torch.OutOfMemoryError, match="injected"),
    ):
        Engine(model, DenoiseConfig(), slots=4)
    assert allocate.count == 3  # 4, 2 and 1 slots


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


@pytest.mark.parametrize(("every", "dies"), [(1, True), (9, True), (10, False)])
def test_many_rows_without_finite_logits_end_the_engine_in_a_row_or_not(
    model: AsrModel, every: int, dies: bool
) -> None:
    """With one slot, rows end in order. The engine ends with the eighth of the last 64 rows that fails."""
    engine = Engine(model, DenoiseConfig(max_steps=1), slots=1, prefill_batch=1)
    embeds = engine.scheduler.prompt_embeds

    def poisoned(rows: list[Segment]) -> Tensor:
        bad = [int(row.key.split()[1]) % every == 0 for row in rows]
        return embeds(rows).masked_fill(torch.tensor(bad)[:, None, None], torch.nan)

    with mock.patch.object(engine.scheduler, "prompt_embeds", poisoned):
        futures = engine.submit_all(segments(9 * every))
        errors = [future.exception(timeout=60) for future in futures]
    fatal = 7 * every if dies else len(futures)  # the eighth
    assert [error is None for error in errors] == [number < fatal for number in range(len(futures))]
    assert all(isinstance(error, EngineDead) for error in errors[fatal:])
    failed = [future.result().text is None for future in futures[:fatal]]
    assert failed == [number % every == 0 for number in range(fatal)]
    if dies:
        with pytest.raises(EngineDead):
            engine.submit(segments(1)[0])
    engine.close()
