"""An engine for models that recognise a batch of segments at once: a turn is one batch. One thread owns it."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import Protocol

import torch

from pipeline.model.exhaustion import memory_exhausted
from pipeline.model.worker import Waiting, Worker
from pipeline.schemas import Segment, SegmentResult

log = logging.getLogger(__name__)


class Recogniser(Protocol):
    """A loaded model."""

    @property
    def detects_language(self) -> bool:
        """Whether results say the language of a segment that comes without one."""

    @property
    def pads(self) -> bool:
        """Whether a batch costs as much as its longest segment. Then a batch is of neighbours in length."""

    def check(self, segment: Segment) -> None:
        """Raises ValueError where the model cannot recognise this segment."""

    def recognise(self, segments: list[Segment]) -> list[SegmentResult | None]:
        """One result per segment, in order; None where its logits were not finite."""


class BatchEngine(Worker):
    """A worker whose turns are batches of up to `slots` segments. The one that waits longest is in the next batch.

    The others are the next ones in the order of their arrival or, where the model pads, of their length. Where
    accelerator memory runs out, the batch is halved for good.
    """

    def __init__(self, recogniser: Recogniser, *, slots: int) -> None:
        super().__init__()
        self.recogniser, self.slots = recogniser, slots
        self.detects_language = recogniser.detects_language
        self._waiting: list[Waiting] = []
        self.start()

    def check(self, segment: Segment) -> None:
        self.recogniser.check(segment)

    def warm_up(self) -> None:
        """Nothing is compiled."""

    @property
    def idle(self) -> bool:
        return not self._waiting

    def add(self, segment: Segment, future: Future[SegmentResult]) -> None:
        self._waiting.append((segment, future))

    def turn(self) -> None:
        """One batch from beginning to end. Where memory runs out, the next turn tries half of it."""
        if not self._waiting:
            return
        chosen = self._chosen()
        batch = [self._waiting[place] for place in chosen]
        results = self._recognised([segment for segment, _ in batch])
        if results is None:
            self.slots = len(batch) // 2
            log.warning("accelerator memory is exhausted: batches of %d become %d", len(batch), self.slots)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return
        for place in sorted(chosen, reverse=True):
            del self._waiting[place]
        for (_, future), result in zip(batch, results, strict=True):
            if self.is_finite(result is not None, future) and result is not None:
                future.set_result(result)

    def _chosen(self) -> list[int]:
        """Which of the waiting segments are the next batch."""
        if not self.recogniser.pads:
            return list(range(min(self.slots, len(self._waiting))))
        by_length = sorted(range(len(self._waiting)), key=lambda place: len(self._waiting[place][0].pcm))
        first = by_length.index(0) // self.slots * self.slots
        return by_length[first : first + self.slots]

    def _recognised(self, segments: list[Segment]) -> list[SegmentResult | None] | None:
        """The results, or None where memory is exhausted: the traceback of an exception would keep the tensors."""
        try:
            return self.recogniser.recognise(segments)
        except RuntimeError as err:
            if len(segments) == 1 or not memory_exhausted(err):
                raise
            return None
