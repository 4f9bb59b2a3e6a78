"""The autoregressive engine: full batches in order, every future resolves, one bad row harms no other."""

from __future__ import annotations

import threading
from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.config import LANGUAGES
from pipeline.model.batches import BatchEngine
from pipeline.model.whisper import recogniser as whisper
from pipeline.model.whisper.recogniser import Whisper
from pipeline.model.worker import REPEATED_NAN, EngineDead
from pipeline.schemas import Segment, SegmentResult
from tests.support.small_model import noise_segment
from tests.support.small_whisper import save_whisper

COUNT = 12
SECONDS = 60


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    return whisper.load(str(save_whisper(tmp_path_factory.mktemp("whisper") / "small")))


@pytest.fixture(scope="module")
def segments() -> list[Segment]:
    return [noise_segment(n, (None, *LANGUAGES)[n % 7], seconds=0.1 + 0.9 * n / COUNT) for n in range(COUNT)]


@pytest.fixture(scope="module")
def alone(loaded: Whisper, segments: list[Segment]) -> list[SegmentResult | None]:
    return [loaded.recognise([segment])[0] for segment in segments]


def texts(results: list[SegmentResult] | list[SegmentResult | None]) -> list[str | None]:
    return [result.text if result else None for result in results]


def watched(loaded: Whisper, batches: list[int], *, room: int = COUNT, error: str = "CUDA out of memory") -> Any:
    """Records the size of each batch of the encoder. A batch of more than `room` rows raises."""
    encoded = loaded.encode

    def forward(given: list[Segment]) -> torch.Tensor:
        batches.append(len(given))
        if len(given) > room:
            raise torch.OutOfMemoryError(error)
        return encoded(given)

    return mock.patch.object(loaded, "encode", forward)


@pytest.mark.parametrize(("slots", "batches"), [(1, [1] * 12), (5, [5, 5, 2]), (16, [12])])
def test_batches_are_full_and_answers_in_order(
    loaded: Whisper, segments: list[Segment], alone: list[SegmentResult], slots: int, batches: list[int]
) -> None:
    seen: list[int] = []
    with watched(loaded, seen):
        engine = BatchEngine(loaded, slots=slots)
        assert texts(engine.transcribe(segments)) == texts(alone)
        engine.close()
    assert seen == batches


def test_exhausted_memory_halves_the_batch_and_loses_nothing(
    loaded: Whisper, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    seen: list[int] = []
    with watched(loaded, seen, room=3):
        engine = BatchEngine(loaded, slots=8)
        assert texts(engine.transcribe(segments)) == texts(alone)
        engine.close()
    assert seen == [8, 4, 2, 2, 2, 2, 2, 2]


def test_memory_for_not_even_one_row_ends_the_engine(loaded: Whisper, segments: list[Segment]) -> None:
    with watched(loaded, [], room=0):
        engine = BatchEngine(loaded, slots=2)
        for future in engine.submit_all(segments):
            with pytest.raises(EngineDead, match="out of memory"):
                future.result(SECONDS)
        with pytest.raises(EngineDead):
            engine.submit(segments[0])
        engine.close()


def poisoned(loaded: Whisper, keys: set[str]) -> Any:
    """The encoder's output of the segments of these keys becomes NaN."""
    encoded = loaded.encode

    def forward(given: list[Segment]) -> torch.Tensor:
        hidden = encoded(given).clone()
        hidden[[row for row, segment in enumerate(given) if segment.key in keys]] = torch.nan
        return hidden

    return mock.patch.object(loaded, "encode", forward)


def test_a_row_of_nan_gets_an_error_and_leaves_the_others_alone(
    loaded: Whisper, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    with poisoned(loaded, {segments[2].key, segments[7].key}):
        engine = BatchEngine(loaded, slots=4)
        got = engine.transcribe(segments)
        engine.close()
    for n, result in enumerate(got):
        if n in (2, 7):
            assert result == SegmentResult(text=None, error="logits are not finite")
        else:
            assert (result.text, result.error) == (alone[n].text, None)


def test_repeated_nan_ends_the_engine(loaded: Whisper, segments: list[Segment]) -> None:
    with poisoned(loaded, {segment.key for segment in segments}):
        engine = BatchEngine(loaded, slots=3)
        errors = [future.exception(SECONDS) for future in engine.submit_all(segments)]
        engine.close()
    assert errors[: REPEATED_NAN - 1] == [None] * (REPEATED_NAN - 1)  # row faults so far
    assert all(isinstance(error, EngineDead) for error in errors[REPEATED_NAN - 1 :])


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (Segment("long", None, b"\0" * 32_002), "long: 32002 bytes"),
        (Segment("odd", None, b"\0" * 3), "odd: 3 bytes"),
        (Segment("foreign", "xx", b""), "foreign: no prompt for language 'xx'"),
    ],
)
def test_a_segment_that_does_not_fit_is_refused_with_all_of_its_call_and_the_engine_goes_on(
    loaded: Whisper, segments: list[Segment], segment: Segment, message: str
) -> None:
    engine = BatchEngine(loaded, slots=2)
    with pytest.raises(ValueError, match=message):
        engine.submit_all([segments[0], segment])
    assert engine.idle
    assert engine.submit(segments[0]).result(SECONDS).text is not None
    engine.close()


def test_silence_and_an_empty_segment_have_an_answer(loaded: Whisper) -> None:
    engine = BatchEngine(loaded, slots=2)
    for result in engine.transcribe([Segment("empty", "en", b""), Segment("silent", None, b"\0" * 32_000)]):
        assert result.text is not None
        assert result.error is None
    engine.close()


def test_stalled_seconds_run_while_a_batch_hangs(loaded: Whisper, segments: list[Segment]) -> None:
    go = threading.Event()
    encoded = loaded.encode

    def hangs(given: list[Segment]) -> torch.Tensor:
        go.wait(SECONDS)
        return encoded(given)

    with mock.patch.object(loaded, "encode", hangs):
        engine = BatchEngine(loaded, slots=2)
        assert engine.stalled_seconds() == 0.0
        future = engine.submit(segments[0])
        threading.Event().wait(0.1)
        assert engine.stalled_seconds() >= 0.1
        go.set()
        assert future.result(SECONDS).text is not None
        engine.close()
    assert engine.stalled_seconds() == 0.0
