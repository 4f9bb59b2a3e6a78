"""The thread that owns a model. Any thread may submit segments; every future gets a result or an error."""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError

from pipeline.schemas import Segment, SegmentResult

log = logging.getLogger(__name__)

NAN_WINDOW = 64  # rows
REPEATED_NAN = 8  # so many of them without finite logits: the replica is broken, not the audio

Waiting = tuple[Segment, Future[SegmentResult]]


class EngineDead(RuntimeError):
    """The engine's thread has ended on an error; the replica must be replaced."""


class Worker(ABC):
    """`submit` works from any thread; the worker's own thread does all the work, one turn after another.

    A fault of the model itself (CUDA error, repeated NaN) ends the thread, and every waiting future fails with
    EngineDead. A subclass says what a turn is, and calls `start` at the end of its constructor.
    """

    detects_language = False  # whether results say the language of a segment that comes without one

    def __init__(self) -> None:
        self._arrivals: queue.SimpleQueue[list[Waiting] | None] = queue.SimpleQueue()
        self._nan: deque[bool] = deque(maxlen=NAN_WINDOW)  # whether the logits of each of the last rows were not finite
        self._error: BaseException | None = None
        self._closing = False
        self._lock = threading.Lock()  # for _error, _unresolved, _closed: no future is added after the others failed
        self._unresolved: set[Future[SegmentResult]] = set()
        self._closed = False
        self._alive_at = time.monotonic()  # when the last turn ended, or when an idle worker got work
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    @abstractmethod
    def check(self, segment: Segment) -> None:
        """Raises ValueError where the model cannot recognise this segment."""

    @abstractmethod
    def warm_up(self) -> None:
        """The work before the first turn, in the worker's thread."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""

    @abstractmethod
    def add(self, segment: Segment, future: Future[SegmentResult]) -> None:
        """Put a segment into the queue for the next turns."""

    @abstractmethod
    def turn(self) -> None:
        """One step of the work. Resolves the futures of segments that are done."""

    def start(self) -> None:
        """Start the thread and wait for its warm-up. Raises the error of the warm-up."""
        self._thread.start()
        self._started.result()
        # A thread that is inside torch when the interpreter exits would abort the process.
        atexit.register(_close, weakref.ref(self))

    def submit(self, segment: Segment) -> Future[SegmentResult]:
        """A future of the segment's result; it cannot be cancelled.

        Raises ValueError where the segment does not fit, EngineDead after a fault, RuntimeError after `close`.
        """
        return self.submit_all([segment])[0]

    def submit_all(self, segments: Sequence[Segment]) -> list[Future[SegmentResult]]:
        """Like `submit` for several segments, all or none of them: the next turn sees all."""
        for segment in segments:
            self.check(segment)
        arrived: list[Waiting] = []
        for segment in segments:
            future: Future[SegmentResult] = Future()
            future.set_running_or_notify_cancel()
            future.add_done_callback(self._unresolved.discard)
            arrived.append((segment, future))
        futures = [future for _, future in arrived]
        with self._lock:
            if self._error is not None:
                raise EngineDead(f"engine stopped: {self._error}") from self._error
            if self._closed:
                raise RuntimeError("the engine is closed")
            if not self._unresolved:
                self._alive_at = time.monotonic()
            self._unresolved.update(futures)
            self._arrivals.put(arrived)
        return futures

    def transcribe(self, segments: list[Segment]) -> list[SegmentResult]:
        """The results of all segments, in order. Waits for them."""
        return [future.result() for future in self.submit_all(segments)]

    def stalled_seconds(self) -> float:
        """Seconds since the last turn ended, while something waits; 0 where nothing waits."""
        with self._lock:
            return time.monotonic() - self._alive_at if self._unresolved else 0.0

    def figures(self) -> dict[str, float]:
        """What the engine has at the moment, by the names of flow/metrics.py."""
        return {"segments_in_engine": len(self._unresolved)}

    def close(self) -> None:
        """Finish all submitted segments, then stop the thread."""
        with self._lock:
            self._closed = True
            self._arrivals.put(None)
        self._thread.join()

    def is_finite(self, finite: bool, future: Future[SegmentResult]) -> bool:
        """Returns `finite`: whether a row's logits were finite. Where they were not, its future gets an error here.

        Raises EngineDead where too many of the last rows were not finite.
        """
        self._nan.append(not finite)
        if finite:
            return True
        if sum(self._nan) >= REPEATED_NAN:
            future.set_exception(EngineDead("logits are not finite"))
            raise EngineDead(f"{REPEATED_NAN} of the last {len(self._nan)} segments had no finite logits")
        future.set_result(SegmentResult(text=None, error="logits are not finite"))
        return False

    def fail(self, error: BaseException) -> None:
        """End the worker on an error, from any thread: all waiting futures and all later calls fail with EngineDead."""
        log.error("engine stopped", exc_info=error)
        with self._lock:
            self._error = self._error or error
            unresolved = list(self._unresolved)
        for future in unresolved:
            with contextlib.suppress(InvalidStateError):  # another thread has just resolved it
                future.set_exception(EngineDead(f"engine stopped: {error}"))

    @staticmethod
    def resolve(future: Future[SegmentResult], result: SegmentResult) -> None:
        """Give a future its result. One that has failed in the meantime stays failed."""
        with contextlib.suppress(InvalidStateError):
            future.set_result(result)

    def _main(self) -> None:
        try:
            self.warm_up()
            self._started.set_result(None)
            while self._error is None and self._next():
                pass
        except BaseException as err:  # noqa: BLE001  any error ends the engine and is reported
            self.fail(err)
            if not self._started.done():
                self._started.set_exception(err)

    def _next(self) -> bool:
        """Take arrivals, then do a turn. False once the worker is closed and idle."""
        self._take_arrivals()
        if self.idle and self._closing:
            return False
        self.turn()
        self._alive_at = time.monotonic()
        return True

    def _take_arrivals(self) -> None:
        block = self.idle and not self._closing
        while True:
            try:
                arrived = self._arrivals.get(block=block)
            except queue.Empty:
                return
            if arrived is None:
                self._closing = True
            for segment, future in arrived or ():
                self.add(segment, future)
            block = False


def _close(worker: weakref.ref[Worker]) -> None:
    alive = worker()
    if alive is not None:
        alive.close()
