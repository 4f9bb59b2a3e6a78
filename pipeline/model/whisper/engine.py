"""The autoregressive engine: segments go in, results come out; a turn is one batch of Whisper. One thread owns it."""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import Future
from itertools import islice

import torch

from pipeline.model.exhaustion import memory_exhausted
from pipeline.model.whisper.recogniser import Whisper
from pipeline.model.worker import Waiting, Worker
from pipeline.schemas import Segment, SegmentResult

log = logging.getLogger(__name__)


class WhisperEngine(Worker):
    """A worker whose turns are batches of up to `slots` segments, in the order of their arrival.

    Where accelerator memory runs out, the batch is halved for good. A row's text depends on its batch by rounding only:
    all prompts have one length, so nothing is padded, and a row that has ended leaves the batch.
    """

    def __init__(self, whisper: Whisper, *, slots: int) -> None:
        super().__init__()
        self.whisper, self.slots = whisper, slots
        self.detects_language = bool(whisper.spec.language_ids)
        self._waiting: deque[Waiting] = deque()
        self.start()

    def check(self, segment: Segment) -> None:
        window = 2 * self.whisper.window_samples
        if len(segment.pcm) % 2 or len(segment.pcm) > window:
            raise ValueError(f"segment {segment.key}: {len(segment.pcm)} bytes of int16 in a window of {window}")
        if segment.language and segment.language not in (self.whisper.spec.language_ids or ("en",)):
            raise ValueError(f"segment {segment.key}: no prompt for language {segment.language!r}")

    def warm_up(self) -> None:
        """Nothing is compiled."""

    @property
    def idle(self) -> bool:
        return not self._waiting

    def add(self, segment: Segment, future: Future[SegmentResult]) -> None:
        self._waiting.append((segment, future))

    def turn(self) -> None:
        """One batch from beginning to end. Where memory runs out, the next turn tries half of it."""
        batch = list(islice(self._waiting, self.slots))
        if not batch:
            return
        results = self._recognised([segment for segment, _ in batch])
        if results is None:
            self.slots = len(batch) // 2
            log.warning("accelerator memory is exhausted: batches of %d become %d", len(batch), self.slots)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return
        for (_, future), result in zip(batch, results, strict=True):
            self._waiting.popleft()
            if self.is_finite(result is not None, future) and result is not None:
                future.set_result(result)

    def _recognised(self, segments: list[Segment]) -> list[SegmentResult | None] | None:
        """The results, or None where memory is exhausted: the traceback of an exception would keep the tensors."""
        try:
            return self.whisper.recognise(segments)
        except RuntimeError as err:
            if len(segments) == 1 or not memory_exhausted(err):
                raise
            return None
