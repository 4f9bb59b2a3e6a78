"""The denoising engine: segments in, results out, slots kept full. One thread owns the model."""

from __future__ import annotations

import logging
import queue
import threading
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

REPEATED_NAN = 8  # rows in a row without finite logits: the replica is broken, not the audio


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
        prefill_batch: int = 8,
        compile: bool = False,
        compile_cache: str | None = None,
        embed: Embed | None = None,
    ) -> None:
        """embed: what makes prompt embeddings of segments; by default features, encoder and projector of the audio."""
        self.model = model
        calls = Calls.make(compile=compile, cache=compile_cache)
        self.scheduler = Scheduler(model, denoise, slots=slots, prefill_batch=prefill_batch, calls=calls, embed=embed)
        self.reruns = 0  # rows that overflowed a shorter canvas
        self._arrivals: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._eos = set(model.config.tokens.eos)
        self._nan_in_a_row = 0
        self._error: BaseException | None = None
        self._closing = False
        self._lock = threading.Lock()  # of _error, _unresolved, _closed: no future is added once the rest have failed
        self._unresolved: set[Future[SegmentResult]] = set()
        self._closed = False
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()
        self._started.result()

    def submit(self, segment: Segment) -> Future[SegmentResult]:
        """A future of the segment's result; it cannot be cancelled.

        Raises ValueError where the segment does not fit, EngineDead after a fault, RuntimeError after close().
        """
        window = 2 * self.model.config.window_samples
        if len(segment.pcm) % 2 or len(segment.pcm) > window:
            raise ValueError(f"segment {segment.key}: {len(segment.pcm)} bytes of int16 in a window of {window}")
        if (segment.language or "") not in self.model.prompts:
            raise ValueError(f"segment {segment.key}: no prompt for language {segment.language!r}")
        future: Future[SegmentResult] = Future()
        future.set_running_or_notify_cancel()
        future.add_done_callback(self._unresolved.discard)
        with self._lock:
            if self._error is not None:
                raise EngineDead(f"engine stopped: {self._error}") from self._error
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._unresolved.add(future)
            self._arrivals.put(Job(segment, future, self.scheduler.length_for(segment)))
        return future

    def transcribe(self, segments: list[Segment]) -> list[SegmentResult]:
        """All results, in order. Convenience over submit()."""
        return [future.result() for future in [self.submit(segment) for segment in segments]]

    def close(self) -> None:
        """Finish what was submitted, then stop the thread."""
        with self._lock:
            self._closed = True
            self._arrivals.put(None)
        self._thread.join()

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
        return True

    def _take_arrivals(self) -> None:
        block = self.scheduler.idle and not self._closing
        while True:
            try:
                job = self._arrivals.get(block=block)
            except queue.Empty:
                return
            if job is None:
                self._closing = True
            else:
                self.scheduler.add(job)
            block = False

    def _deliver(self, finished: Finished) -> None:
        job: Job = finished.job
        if finished.canvas is None:
            self._nan_in_a_row += 1
            if self._nan_in_a_row >= REPEATED_NAN:
                job.future.set_exception(EngineDead("logits are not finite"))
                raise EngineDead(f"{self._nan_in_a_row} segments in a row without finite logits")
            job.future.set_result(SegmentResult(text=None, error="logits are not finite"))
            return
        self._nan_in_a_row = 0
        config = self.model.config
        result = confidence.result(finished.canvas, self.model.tokenizer, eos=self._eos, vocab_size=config.vocab_size)
        full = self.scheduler.full_length
        if result.overflow and job.length < full:
            self.reruns += 1
            self.scheduler.add(replace(job, length=full))
            return
        job.future.set_result(result)

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            unresolved = list(self._unresolved)
        for future in unresolved:
            future.set_exception(EngineDead(f"engine stopped: {error}"))
