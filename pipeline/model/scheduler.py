"""Which segment is prefilled, which slot it takes, which lane steps next: the engine's work without its thread."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import DenoiseConfig
from pipeline.model import canvas_policy, noise
from pipeline.model.checkpoint import AsrModel
from pipeline.model.compiled import Calls, compilations
from pipeline.model.lane import Finished, Lane, Prepared
from pipeline.schemas import SAMPLE_RATE, Segment

log = logging.getLogger(__name__)

Embed = Callable[[list[Segment]], Tensor]  # to [segments, prompt length, hidden]


@dataclass(frozen=True, slots=True)
class Job:
    """A segment on its way through the engine; `future` is the engine's own."""

    segment: Segment
    future: Any
    length: int  # of its canvas


class Scheduler:
    """One lane of `slots` canvases per canvas length; segments wait in order, per lane.

    Prompts are prefilled in batches of `prefill_batch` before slots fall empty; the fullest lane takes the next step.
    Accelerator memory running out halves the slots and starts the rows in flight again, with the same noise. Storage is
    allocated and compiled code is warm after `make_lanes`.
    """

    def __init__(
        self,
        model: AsrModel,
        denoise: DenoiseConfig,
        *,
        slots: int,
        prefill_batch: int,
        calls: Calls,
        embed: Embed | None = None,
    ) -> None:
        self.model, self.denoise, self.slots, self.prefill_batch = model, denoise, slots, prefill_batch
        self.calls = calls
        self.prompt_embeds = embed or self._audio_embeds
        own = model.config.canvas_length
        self.lengths = canvas_policy.lengths(denoise.canvas_length, own=own, prompt=model.prompt_length)
        self.lanes: dict[int, Lane] = {}
        self._row_steps = (0, 0)  # computed and needed, of lanes that are gone
        self._warm_compilations = 0
        self._pending: dict[int, deque[Job]] = {length: deque() for length in self.lengths}
        self._ready: dict[int, deque[Prepared]] = {length: deque() for length in self.lengths}
        self._prefilling: list[Job] = []

    @property
    def full_length(self) -> int:
        """The longest canvas, for which there is no second try."""
        return self.lengths[-1]

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        waiting = [*self._pending.values(), *self._ready.values()]
        return not (any(waiting) or any(lane.active for lane in self.lanes.values()))

    @property
    def row_steps(self) -> tuple[int, int]:
        """Row-steps computed and row-steps that segments needed; the first is larger where a bucket held idle rows."""
        computed, needed = self._row_steps
        for lane in self.lanes.values():
            computed, needed = computed + lane.row_steps_computed, needed + lane.row_steps_needed
        return computed, needed

    @property
    def recompilations(self) -> int:
        """Graphs compiled in this process since the lanes were warm; 0 in steady state."""
        return compilations() - self._warm_compilations

    def length_for(self, segment: Segment) -> int:
        """The canvas length of a segment, under the policy."""
        seconds = len(segment.pcm) / 2 / SAMPLE_RATE
        return canvas_policy.choose(self.lengths, seconds=seconds, window_seconds=self.model.config.window_seconds)

    def add(self, job: Job) -> None:
        """Let a job wait for its lane."""
        self._pending[job.length].append(job)

    def turn(self) -> list[Finished]:
        """Prefill where slots are free, fill them, one step of the fullest lane. Returns the rows that ended."""
        finished: list[Finished] = []
        self._guarded(lambda: finished.extend(self._work()))
        return finished

    def make_lanes(self) -> None:
        """Allocate all storage and compile all code, with fewer slots where the memory does not suffice."""
        self._guarded(self._make_lanes)

    def _work(self) -> list[Finished]:
        """What `turn` says, without the guard."""
        short = {n: lane.free - len(self._ready[n]) for n, lane in self.lanes.items() if self._pending[n]}
        if short and max(short.values()) > 0:
            self._prefill(max(short, key=lambda n: short[n]))
        for length, lane in self.lanes.items():
            while self._ready[length] and lane.free:
                lane.admit(self._ready[length][0])
                self._ready[length].popleft()
        fullest = max(self.lanes.values(), key=lambda lane: lane.active)
        return fullest.denoise_once()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work`; while accelerator memory does not suffice, halve the slots and try again."""
        exhausted = False
        try:
            work()
        except torch.OutOfMemoryError:
            if self.slots == 1:
                raise
            exhausted = True
        while exhausted:  # outside of `except`: its traceback would keep the tensors alive
            exhausted = False
            try:
                self._halve()
            except torch.OutOfMemoryError:
                if self.slots == 1:
                    raise
                exhausted = True

    def _halve(self) -> None:
        """Half the slots and half the prefill batch; rows in flight wait in front, to start again."""
        log.warning("accelerator memory is exhausted: %d canvas slots become %d", self.slots, self.slots // 2)
        started = [*self._prefilling]
        for length in self.lengths:
            started += [prepared.job for prepared in self._ready[length]]
            self._ready[length].clear()
            if length in self.lanes:
                started += self.lanes[length].jobs
        for job in reversed(started):
            self._pending[job.length].appendleft(job)
        self._prefilling = []
        self._row_steps = self.row_steps
        self.lanes.clear()
        self.slots, self.prefill_batch = self.slots // 2, max(1, self.prefill_batch // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._make_lanes()

    def _make_lanes(self) -> None:
        """All storage, and all compiled code warm."""
        model = self.model
        for n in self.lengths:
            self.lanes[n] = Lane(model, slots=self.slots, canvas_length=n, denoise=self.denoise, calls=self.calls)
            self.lanes[n].warm_up()
        if self.calls.static:
            weight = model.backbone.lm_head.weight
            shape = (self.prefill_batch, model.prompt_length, weight.shape[1])
            with torch.inference_mode():
                self.calls.prefill(model.backbone, torch.zeros(shape, device=weight.device, dtype=weight.dtype))
        self._warm_compilations = compilations()

    @torch.inference_mode()
    def _prefill(self, length: int) -> None:
        """Embeddings and prompt prefill for the next segments of a lane."""
        pending = self._pending[length]
        jobs = self._prefilling = [pending.popleft() for _ in range(min(self.prefill_batch, len(pending)))]
        embeds = self.prompt_embeds([job.segment for job in jobs])
        if self.calls.static and len(jobs) < self.prefill_batch:  # one shape: repeat the last row
            last = embeds[-1:].expand(self.prefill_batch - len(jobs), -1, -1)
            embeds = torch.cat([embeds, last])
        kv, _ = self.calls.prefill(self.model.backbone, embeds)
        for row, job in enumerate(jobs):
            keys = noise.row_keys(job.segment.key, self.denoise.seed)
            self._ready[length].append(Prepared(job, keys, kv, row))
        self._prefilling = []

    def _audio_embeds(self, segments: list[Segment]) -> Tensor:
        """Features, encoder, projector and prompt text: [segments, prompt length, hidden]."""
        model = self.model
        windows = np.stack([window_of(segment.pcm, model.config.window_samples) for segment in segments])
        audio = model.projector(model.encoder(torch.from_numpy(windows).to(model.backbone.lm_head.weight.device)))
        return model.prompt_embeds(audio, [segment.language for segment in segments])


def window_of(pcm: bytes, samples: int) -> np.ndarray:
    """int16 little-endian bytes as float32 [samples] in [-1, 1), zero-padded. Raises ValueError if longer."""
    audio = np.frombuffer(pcm, "<i2")
    if len(audio) > samples:
        raise ValueError(f"a segment of {len(audio)} samples does not fit the model's window of {samples}")
    window = np.zeros(samples, np.float32)
    window[: len(audio)] = audio.astype(np.float32) / 32768.0
    return window
