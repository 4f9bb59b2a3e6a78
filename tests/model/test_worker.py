"""The thread that owns a model: it turns until nothing waits, every future resolves, nothing is taken after the end."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future

import pytest

from pipeline.model.worker import NAN_WINDOW, REPEATED_NAN, EngineDead, Waiting, Worker
from pipeline.schemas import Segment, SegmentResult

SECONDS = 60


class Echo(Worker):
    """A segment per turn; its language is its text. `nan` has no finite logits, `bug` is a fault, `no` does not fit."""

    def __init__(self, *, warm: str = "") -> None:
        super().__init__()
        self.warm = warm
        self.threads: set[str] = set()
        self.waiting: deque[Waiting] = deque()
        self.start()

    def check(self, segment: Segment) -> None:
        if segment.language == "no":
            raise ValueError("no")

    def warm_up(self) -> None:
        if self.warm:
            raise RuntimeError(self.warm)

    @property
    def idle(self) -> bool:
        return not self.waiting

    def add(self, segment: Segment, future: Future[SegmentResult]) -> None:
        self.waiting.append((segment, future))

    def turn(self) -> None:
        self.threads.add(threading.current_thread().name)
        segment, future = self.waiting.popleft()
        if segment.language == "bug":
            raise RuntimeError("a bug")
        if self.is_finite(segment.language != "nan", future):
            future.set_result(SegmentResult(text=segment.language))


def said(*languages: str) -> list[Segment]:
    return [Segment(f"{n}", language, b"") for n, language in enumerate(languages)]


def test_answers_come_in_order_from_one_thread() -> None:
    worker = Echo()
    words = [str(n) for n in range(200)]
    assert [result.text for result in worker.transcribe(said(*words))] == words
    assert worker.threads == {"engine"}
    worker.close()


def test_close_finishes_what_was_submitted_and_takes_no_more() -> None:
    worker = Echo()
    futures = worker.submit_all(said(*"abc"))
    worker.close()
    assert [future.result(0).text for future in futures] == list("abc")
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit_all(said("d"))
    worker.close()  # a second time does nothing


def test_of_segments_submitted_together_all_are_refused_or_none() -> None:
    worker = Echo()
    with pytest.raises(ValueError, match="no"):
        worker.submit_all(said("a", "no"))
    assert worker.idle
    assert worker.submit_all([]) == []
    worker.close()


def test_a_fault_fails_whatever_waits_and_whatever_comes() -> None:
    worker = Echo()
    first, broken, *rest = worker.submit_all(said("a", "bug", "b", "c"))
    assert first.result(SECONDS).text == "a"
    for future in (broken, *rest):
        with pytest.raises(EngineDead, match="a bug"):
            future.result(SECONDS)
    with pytest.raises(EngineDead, match="a bug"):
        worker.submit_all(said("d"))
    assert worker.stalled_seconds() == 0.0


def test_a_warm_up_that_fails_is_raised_by_the_constructor() -> None:
    with pytest.raises(RuntimeError, match="no memory"):
        Echo(warm="no memory")


def test_nan_now_and_then_is_a_rows_fault_and_often_the_workers() -> None:
    worker = Echo()
    seldom = (["nan"] + ["a"] * (NAN_WINDOW // (REPEATED_NAN - 1))) * 20
    results = worker.transcribe(said(*seldom))
    assert [result.text or result.error for result in results] == [
        "logits are not finite" if word == "nan" else word for word in seldom
    ]
    often = worker.submit_all(said(*["nan"] * (REPEATED_NAN + 2)))
    assert isinstance(often[-1].exception(SECONDS), EngineDead)


def test_a_future_cannot_be_cancelled() -> None:
    worker = Echo()
    future = worker.submit(said("a")[0])
    assert not future.cancel()
    assert future.result(SECONDS).text == "a"
    worker.close()
