"""The thread that owns a model: segments are submitted from any thread, and every future resolves, whatever happens."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from pipeline.schemas import Segment, SegmentResult

log = logging.getLogger(__name__)

NAN_WINDOW = 64  # rows
REPEATED_NAN = 8  # of them without finite logits: the replica is broken, not the audio

Waiting = tuple[Segment, Future[SegmentResult]]


class EngineDead(RuntimeError):
    """The engine's thread has ended on an error; the replica must be replaced."""


class Worker(ABC):
    """submit() from any thread; the worker's own thread does all the work, turn by turn.

    A fault of the model itself (CUDA error, repeated NaN) fails every waiting future with EngineDead. A subclass says
    what a turn is, and calls `start` at the end of its constructor.
    """

    def __init__(self) -> None:
        self._arrivals: queue.SimpleQueue[list[Waiting] | None] = queue.SimpleQueue()
        self._nan: deque[bool] = deque(maxlen=NAN_WINDOW)  # of the last rows, whether their logits were not finite
        self._error: BaseException | None = None
        self._closing = False
        self._lock = threading.Lock()  # of _error, _unresolved, _closed: no future is added once the rest have failed
        self._unresolved: set[Future[SegmentResult]] = set()
        self._closed = False
        self._alive_at = time.monotonic()  # when the last turn ended, or work came to a worker that had none
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    @abstractmethod
    def check(self, segment: Segment) -> None:
        """Raises ValueError where the model cannot hear this segment."""

    @abstractmethod
    def warm_up(self) -> None:
        """What is to be done before the first turn, in the worker's thread."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""

    @abstractmethod
    def add(self, segment: Segment, future: Future[SegmentResult]) -> None:
        """Let a segment wait for the next turns."""

    @abstractmethod
    def turn(self) -> None:
        """One step of the work; resolves the futures of what has ended."""

    def start(self) -> None:
        """Start the thread and wait for its warm-up. Raises what went wrong with that."""
        self._thread.start()
        self._started.result()
        # A thread inside torch while the interpreter takes itself down ends the process with an abort.
        atexit.register(_close, weakref.ref(self))

    def submit(self, segment: Segment) -> Future[SegmentResult]:
        """A future of the segment's result; it cannot be cancelled.

        Raises ValueError where the segment does not fit, EngineDead after a fault, RuntimeError after close().
        """
        return self.submit_all([segment])[0]

    def submit_all(self, segments: Sequence[Segment]) -> list[Future[SegmentResult]]:
        """Like submit(), all or none: the next turn sees all of them."""
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
        """All results, in order. Convenience over submit_all()."""
        return [future.result() for future in self.submit_all(segments)]

    def stalled_seconds(self) -> float:
        """How long something has waited without the end of any turn; 0 where nothing waits."""
        with self._lock:
            return time.monotonic() - self._alive_at if self._unresolved else 0.0

    def close(self) -> None:
        """Finish what was submitted, then stop the thread."""
        with self._lock:
            self._closed = True
            self._arrivals.put(None)
        self._thread.join()

    def is_finite(self, finite: bool, future: Future[SegmentResult]) -> bool:
        """Whether a row's logits were; else the row is answered here, with an error. Raises EngineDead if repeated."""
        self._nan.append(not finite)
        if finite:
            return True
        if sum(self._nan) >= REPEATED_NAN:
            future.set_exception(EngineDead("logits are not finite"))
            raise EngineDead(f"{REPEATED_NAN} of the last {len(self._nan)} segments without finite logits")
        future.set_result(SegmentResult(text=None, error="logits are not finite"))
        return False

    def _main(self) -> None:
        try:
            self.warm_up()
            self._started.set_result(None)
            while self._next():
                pass
        except BaseException as err:  # everything ends the engine, nothing is swallowed
            log.exception("engine stopped")
            self._fail_all(err)
            if not self._started.done():
                self._started.set_exception(err)

    def _next(self) -> bool:
        """Take arrivals, then a turn. False when closed and empty."""
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

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            unresolved = list(self._unresolved)
        for future in unresolved:
            future.set_exception(EngineDead(f"engine stopped: {error}"))


def _close(worker: weakref.ref[Worker]) -> None:
    held = worker()
    if held is not None:
        held.close()
