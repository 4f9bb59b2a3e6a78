"""The engine: a segment's text depends on nothing else, every future resolves, a fault of the model ends the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import LANGUAGES, DenoiseConfig
from pipeline.model.denoise import confidence
from pipeline.model.denoise.engine import REPEATED_NAN, Engine, EngineDead
from pipeline.model.network import backbone
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment, SegmentResult
from tests.support.small_model import hearing_model, noise_segment

DENOISE = DenoiseConfig(max_steps=10, entropy_bound=2.0, confidence_threshold=0.2)
COUNT = 12
SECONDS = 60  # no future of these models takes longer


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(3)


@pytest.fixture(scope="module")
def segments() -> list[Segment]:
    return [noise_segment(n, (None, *LANGUAGES)[n % 7], seconds=0.1 + 0.9 * n / COUNT) for n in range(COUNT)]


@pytest.fixture(scope="module")
def alone(model: AsrModel, segments: list[Segment]) -> list[SegmentResult]:
    """Every segment in an engine of one slot."""
    return transcribe(model, segments, slots=1, prefill_batch=1)


def transcribe(
    model: AsrModel, segments: list[Segment], *, slots: int, prefill_batch: int, denoise: DenoiseConfig = DENOISE
) -> list[SegmentResult]:
    engine = Engine(model, denoise, slots=slots, prefill_batch=prefill_batch)
    results = engine.transcribe(segments)
    engine.close()
    return results


def poisoning(model: AsrModel, numbers: set[int]) -> Any:
    """Patches the projector: the audio vectors of rows with these numbers, counted over all calls, become NaN."""
    seen = 0
    projector = model.projector.forward

    def forward(features: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        vectors = projector(features).clone()
        vectors[[row for row in range(len(vectors)) if seen + row in numbers]] = torch.nan
        seen += len(vectors)
        return vectors

    return mock.patch.object(model.projector, "forward", forward)


@pytest.fixture
def dying(model: AsrModel) -> Iterator[tuple[Engine, threading.Event]]:
    """An engine whose first denoising step waits for the event and then raises."""
    go = threading.Event()

    def denoise(*_: object) -> torch.Tensor:
        go.wait(SECONDS)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with mock.patch.object(backbone, "denoise", side_effect=denoise):
        yield Engine(model, DENOISE, slots=2, prefill_batch=2), go
    go.set()


@pytest.mark.parametrize(("slots", "prefill_batch"), [(1, 8), (3, 1), (4, 2), (16, 16)])
def test_text_depends_on_segment_and_seed_only(
    model: AsrModel, segments: list[Segment], alone: list[SegmentResult], slots: int, prefill_batch: int
) -> None:
    assert len({result.text for result in alone}) == COUNT  # the texts differ, so that a mix-up would be seen
    assert len({result.steps for result in alone}) > 2
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(slots)).tolist()
    got = transcribe(model, [segments[n] for n in order], slots=slots, prefill_batch=prefill_batch)
    assert [result.text for result in got] == [alone[n].text for n in order]
    assert [result.steps for result in got] == [alone[n].steps for n in order]


def test_text_does_not_depend_on_which_segments_are_its_neighbours(
    model: AsrModel, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    others = [noise_segment(n) for n in range(100, 104)]
    got = transcribe(
        model, [others[0], segments[2], others[1], others[2], segments[9], others[3]], slots=4, prefill_batch=3
    )
    assert [got[1].text, got[4].text] == [alone[2].text, alone[9].text]


def test_another_seed_sound_or_language_gives_another_text(
    model: AsrModel, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    reseeded = DENOISE.model_copy(update={"seed": 1})
    first = segments[1]  # English
    texts = {
        alone[1].text,
        transcribe(model, [first], slots=1, prefill_batch=1, denoise=reseeded)[0].text,
        transcribe(model, [Segment(first.key, "hi", first.pcm)], slots=1, prefill_batch=1)[0].text,
        transcribe(model, [Segment(first.key, "en", segments[2].pcm)], slots=1, prefill_batch=1)[0].text,
    }
    assert len(texts) == 4


@given(names=st.lists(st.text(max_size=20), min_size=COUNT, max_size=COUNT), slots=st.integers(1, 8), data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_same_sound_gives_the_same_text_under_any_name(
    model: AsrModel,
    segments: list[Segment],
    alone: list[SegmentResult],
    names: list[str],
    slots: int,
    data: st.DataObject,
) -> None:
    """Whatever it is called, in whatever order, with whatever batches, and in another engine."""
    order = data.draw(st.permutations(range(COUNT)))[:5]
    renamed = [Segment(names[n], segments[n].language, segments[n].pcm) for n in order]
    got = transcribe(model, renamed, slots=slots, prefill_batch=data.draw(st.integers(1, 4)))
    assert [result.text for result in got] == [alone[n].text for n in order]


def test_segments_may_come_from_many_threads_while_the_engine_works(
    model: AsrModel, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    engine = Engine(model, DENOISE, slots=3)
    futures: dict[int, Future[SegmentResult]] = {}

    def submit(numbers: list[int]) -> None:
        for n in numbers:
            futures[n] = engine.submit(segments[n])

    threads = [threading.Thread(target=submit, args=(list(range(start, COUNT, 4)),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [futures[n].result(SECONDS).text for n in range(COUNT)] == [result.text for result in alone]
    engine.close()


def test_close_finishes_what_was_submitted_and_takes_no_more(model: AsrModel, segments: list[Segment]) -> None:
    engine = Engine(model, DENOISE, slots=2, prefill_batch=2)
    futures = [engine.submit(segment) for segment in segments]
    engine.close()
    assert all(future.done() and future.result().text is not None for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(segments[0])
    engine.close()  # a second time does nothing


def test_an_idle_engine_wakes_up(model: AsrModel, segments: list[Segment], alone: list[SegmentResult]) -> None:
    engine = Engine(model, DENOISE, slots=2)
    for n in (3, 5):
        assert engine.submit(segments[n]).result(SECONDS).text == alone[n].text
    engine.close()


def test_a_caller_that_gives_up_disturbs_no_other(
    model: AsrModel, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    """A timeout cancels the future that it waits for. The engine must survive that."""
    engine = Engine(model, DENOISE, slots=1)
    futures = [engine.submit(segment) for segment in segments[:3]]
    assert not futures[1].cancel()
    assert [future.result(SECONDS).text for future in futures] == [result.text for result in alone[:3]]
    engine.close()


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (Segment("long", None, b"\0" * 32_002), "long: 32002 bytes"),
        (Segment("odd", None, b"\0" * 3), "odd: 3 bytes"),
        (Segment("foreign", "xx", b""), "foreign: no prompt for language 'xx'"),
    ],
)
def test_a_segment_that_does_not_fit_is_refused_and_the_engine_goes_on(
    model: AsrModel, segments: list[Segment], segment: Segment, message: str
) -> None:
    engine = Engine(model, DENOISE, slots=1)
    with pytest.raises(ValueError, match=message):
        engine.submit(segment)
    assert engine.submit(segments[0]).result(SECONDS).text is not None
    engine.close()


def test_a_dead_engine_fails_every_future(dying: tuple[Engine, threading.Event], segments: list[Segment]) -> None:
    engine, go = dying
    futures = [engine.submit(segment) for segment in segments]
    go.set()
    for future in futures:
        with pytest.raises(EngineDead, match="illegal memory access"):
            future.result(SECONDS)
    with pytest.raises(EngineDead, match="illegal memory access"):
        engine.submit(segments[0])
    engine.close()


@pytest.mark.parametrize("attempt", range(10))
def test_futures_submitted_around_the_moment_of_death_resolve(
    dying: tuple[Engine, threading.Event], attempt: int
) -> None:
    engine, go = dying
    futures: list[Future[SegmentResult]] = []
    refused = threading.Semaphore(0)

    def submit(thread: int) -> None:
        for number in range(200_000):
            try:
                futures.append(engine.submit(Segment(f"{attempt} {thread} {number}", None, b"")))
            except EngineDead:
                refused.release()
                return

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(SECONDS)
    assert all(refused.acquire(timeout=SECONDS) for _ in threads)
    assert futures
    assert all(isinstance(future.exception(SECONDS), EngineDead) for future in futures)


@pytest.mark.parametrize("broken", [(backbone, "prefill"), (confidence, "result")], ids=["prefill", "delivery"])
def test_death_while_rows_are_between_two_queues_loses_no_future(
    model: AsrModel, segments: list[Segment], broken: tuple[Any, str]
) -> None:
    module, name = broken
    with mock.patch.object(module, name, side_effect=RuntimeError("broken")):
        engine = Engine(model, DENOISE, slots=4, prefill_batch=4)
        futures = [engine.submit(segment) for segment in segments]
        assert all(isinstance(future.exception(SECONDS), EngineDead) for future in futures)
        engine.close()


def test_a_row_of_nan_gets_an_error_and_leaves_the_others_alone(
    model: AsrModel, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    with poisoning(model, {2, 7}):
        got = transcribe(model, segments, slots=4, prefill_batch=4)
    for n in (2, 7):
        assert got[n].text is None
        assert got[n].error == "logits are not finite"
        assert got[n].confidence is None
    others = [n for n in range(COUNT) if n not in (2, 7)]
    assert [got[n].text for n in others] == [alone[n].text for n in others]
    assert all(got[n].error is None for n in others)


def test_repeated_nan_ends_the_engine(model: AsrModel, segments: list[Segment]) -> None:
    with poisoning(model, set(range(REPEATED_NAN))):
        engine = Engine(model, DENOISE, slots=1, prefill_batch=4)
        futures = [engine.submit(segment) for segment in segments]
        errors = [future.exception(SECONDS) for future in futures]
    assert errors[: REPEATED_NAN - 1] == [None] * (REPEATED_NAN - 1)  # row faults so far
    assert all(isinstance(error, EngineDead) for error in errors[REPEATED_NAN - 1 :])


def test_stalled_seconds_are_those_since_a_turn_ended_while_something_waits(
    dying: tuple[Engine, threading.Event], segments: list[Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, go = dying
    now = [time.monotonic()]
    monkeypatch.setattr("pipeline.model.worker.time", mock.Mock(monotonic=lambda: now[0]))
    now[0] += 50
    assert engine.stalled_seconds() == 0.0  # idle
    future = engine.submit(segments[0])
    assert engine.stalled_seconds() == 0.0  # the idle time does not count
    while not backbone.denoise.called:  # type: ignore[attr-defined]
        time.sleep(0.01)
    now[0] += 100
    assert engine.stalled_seconds() == 100.0
    go.set()
    assert future.exception(SECONDS) is not None
    assert engine.stalled_seconds() == 0.0


def test_segments_submitted_together_start_together(model: AsrModel, segments: list[Segment]) -> None:
    batches: list[int] = []
    prefill = backbone.prefill

    def counted(own: Any, embeds: torch.Tensor, positions: torch.Tensor) -> Any:
        batches.append(len(embeds))
        return prefill(own, embeds, positions)

    with mock.patch.object(backbone, "prefill", counted):
        engine = Engine(model, DENOISE, slots=COUNT, prefill_batch=COUNT)
        engine.transcribe(segments)
        engine.close()
    assert batches == [COUNT]


def test_of_segments_submitted_together_all_are_refused_or_none(model: AsrModel, segments: list[Segment]) -> None:
    engine = Engine(model, DENOISE, slots=1)
    with pytest.raises(ValueError, match="odd"):
        engine.submit_all([segments[0], Segment("odd", None, b"\0" * 3)])
    assert engine.scheduler.idle
    assert engine.submit_all([]) == []
    engine.close()


def test_results_are_complete(alone: list[SegmentResult]) -> None:
    for result in alone:
        assert result.confidence is not None
        assert 0 <= result.confidence <= 1
        assert (result.canvas_length, result.error) == (8, None)
        assert 1 <= result.steps <= DENOISE.max_steps
        assert result.signals is not None
