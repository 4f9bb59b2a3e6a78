"""The denoising engine: segments in, results out, slots kept full. One thread owns the model."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from pipeline.config import DenoiseConfig
from pipeline.model import confidence
from pipeline.model.checkpoint import AsrModel
from pipeline.model.compiled import Calls
from pipeline.model.confidence import SegmentResult
from pipeline.model.lane import Finished
from pipeline.model.scheduler import Embed, Job, Scheduler
from pipeline.schemas import Segment

log = logging.getLogger(__name__)

NAN_WINDOW = 64  # rows
REPEATED_NAN = 8  # of them without finite logits: the replica is broken, not the audio


class EngineDead(RuntimeError):
    """The engine's thread has ended on an error; the replica must be replaced."""


class Engine:
    """submit() from any thread; the engine's own thread does all the work, in the order that `Scheduler` decides.

    A fault of the model itself (CUDA error, repeated NaN) fails every waiting future with EngineDead: each one
    resolves, whatever happens. When the constructor returns, storage is allocated and compiled code is warm; it raises
    what went wrong with that.
    """

    def __init__(
        self,
        model: AsrModel,
        denoise: DenoiseConfig,
        *,
        slots: int,
        prefill_batch: int | None = None,
        compile: bool = False,
        compile_cache: str | None = None,
        embed: Embed | None = None,
    ) -> None:
        """prefill_batch: prompts that are prefilled together, by default a quarter of the slots.

        embed: what makes prompt embeddings of segments, by default features, encoder and projector of the audio.
        """
        self.model = model
        calls = Calls.make(compile=compile, cache=compile_cache)
        self.scheduler = Scheduler(model, denoise, slots=slots, prefill_batch=prefill_batch, calls=calls, embed=embed)
        self.reruns = 0  # rows that overflowed a shorter canvas
        self._arrivals: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._eos = set(model.config.tokens.eos)
        self._nan: deque[bool] = deque(maxlen=NAN_WINDOW)  # of the last rows, whether their logits were not finite
        self._error: BaseException | None = None
        self._closing = False
        self._lock = threading.Lock()  # of _error, _unresolved, _closed: no future is added once the rest have failed
        self._unresolved: set[Future[SegmentResult]] = set()
        self._closed = False
        self._alive_at = time.monotonic()  # when the last turn ended, or work came to an engine that had none
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
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
        """Like submit(), all or none: the engine's next turn sees all of them."""
        for segment in segments:
            self._check(segment)
        jobs: list[Job] = []
        for segment in segments:
            future: Future[SegmentResult] = Future()
            future.set_running_or_notify_cancel()
            future.add_done_callback(self._unresolved.discard)
            jobs.append(Job(segment, future, self.scheduler.length_for(segment)))
        with self._lock:
            if self._error is not None:
                raise EngineDead(f"engine stopped: {self._error}") from self._error
            if self._closed:
                raise RuntimeError("the engine is closed")
            if not self._unresolved:
                self._alive_at = time.monotonic()
            self._unresolved.update(job.future for job in jobs)
            self._arrivals.put(jobs)
        return [job.future for job in jobs]

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

    def _check(self, segment: Segment) -> None:
        window = 2 * self.model.config.window_samples
        if len(segment.pcm) % 2 or len(segment.pcm) > window:
            raise ValueError(f"segment {segment.key}: {len(segment.pcm)} bytes of int16 in a window of {window}")
        if (segment.language or "") not in self.model.prompts:
            raise ValueError(f"segment {segment.key}: no prompt for language {segment.language!r}")

    def _main(self) -> None:
        try:
            self.scheduler.make_lanes()
            self._started.set_result(None)
            while self._turn():
                pass
        except BaseException as err:  # everything ends the engine, nothing is swallowed
            log.exception("engine stopped")
            self._fail_all(err)
            if not self._started.done():
                self._started.set_exception(err)

    def _turn(self) -> bool:
        """Take arrivals, prefill, fill slots, one denoising step. False when closed and empty."""
        self._take_arrivals()
        if self.scheduler.idle and self._closing:
            return False
        for finished in self.scheduler.turn():
            self._deliver(finished)
        self._alive_at = time.monotonic()
        return True

    def _take_arrivals(self) -> None:
        block = self.scheduler.idle and not self._closing
        while True:
            try:
                jobs = self._arrivals.get(block=block)
            except queue.Empty:
                return
            if jobs is None:
                self._closing = True
            for job in jobs or ():
                self.scheduler.add(job)
            block = False

    def _deliver(self, finished: Finished) -> None:
        job: Job = finished.job
        self._nan.append(finished.canvas is None)
        if finished.canvas is None:
            if sum(self._nan) >= REPEATED_NAN:
                job.future.set_exception(EngineDead("logits are not finite"))
                raise EngineDead(f"{REPEATED_NAN} of the last {len(self._nan)} segments without finite logits")
            job.future.set_result(SegmentResult(text=None, error="logits are not finite"))
            return
        config = self.model.config
        result = confidence.result(finished.canvas, self.model.tokenizer, eos=self._eos, vocab_size=config.vocab_size)
        full = self.scheduler.full_length
        if result.overflow and job.length < full:
            self.reruns += 1
            self.scheduler.add(replace(job, length=full), first=True)
            return
        job.future.set_result(result)

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            unresolved = list(self._unresolved)
        for future in unresolved:
            future.set_exception(EngineDead(f"engine stopped: {error}"))


def _close(engine: weakref.ref[Engine]) -> None:
    held = engine()
    if held is not None:
        held.close()
