"""Decides which segment is prefilled, which slot it takes and which lane steps next. Has no thread of its own."""

from __future__ import annotations

import bisect
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.audio.pcm import from_pcm
from pipeline.config import DenoiseConfig
from pipeline.model.denoise import canvas_policy, noise
from pipeline.model.denoise.compiled import STATIC_EIGHTHS, Calls, compilations, prefill_buckets, prompt_widths
from pipeline.model.denoise.ctc import SlotScores, greedy, score_slots
from pipeline.model.denoise.head import tile_step_for
from pipeline.model.denoise.lane import Finished, Lane, Prepared
from pipeline.model.exhaustion import memory_exhausted
from pipeline.model.network.backbone import PromptKV, at
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompts:
    """A batch of prefilled prompts."""

    kv: PromptKV
    kept: list[int]  # of each row, the first positions that are its prompt
    slots: list[SlotScores]
    made: torch.cuda.Event | None  # another stream may read them after it; None: at once


Embed = Callable[[list[Segment]], Tensor]  # to [segments, prompt length, hidden]
PATIENCE = 4  # turns for which a lane with rows may wait for fuller lanes


@dataclass(frozen=True, slots=True)
class Job:
    """A segment on its way through the engine; `future` is the engine's own."""

    segment: Segment
    future: Any
    length: int | None = None  # of its canvas, in tokens; None: chosen when CTC has counted its tokens
    slots: SlotScores | None = None  # what CTC says of its audio; None: not prefilled yet
    votes: tuple[int, ...] = (0,)  # the noise of its rows, which share a prompt; once prefilled, each is a job with one
    ballot: Any = None  # to which its text is a vote; None: it is the first text of its segment


class Scheduler:
    """One lane of `slots` canvases per canvas length. Segments wait in order until their prompts are prefilled.

    Then CTC has counted their tokens, and each is ready for the lane of its canvas length. The lane with the most rows
    takes the next step, unless another one has waited PATIENCE turns. So each of L lanes that have rows steps at least
    every PATIENCE + L - 1 turns. Before the step, prompts are prefilled for the lane's free slots; those that CTC sends
    to other lanes take free slots there, or wait: at most two batches.

    When all slots are busy, the features and the prompt KV of one more batch are computed ahead, so that a slot that
    becomes free is filled at once. On CUDA that runs in a stream of its own, between the start of the step and the
    wait for its result. On a CPU the two take turns.

    Where accelerator memory runs out, the slots are halved and the rows in flight start again with the same noise.
    After `make_lanes`, storage is allocated and compiled code is warm.
    """

    def __init__(
        self,
        model: AsrModel,
        denoise: DenoiseConfig,
        *,
        slots: int,
        prefill_batch: int | None = None,
        calls: Calls,
        head: str = "torch",
        embed: Embed | None = None,
    ) -> None:
        """prefill_batch: prompts that are prefilled together; None: a quarter of the slots.

        head: `model.head` of the config. embed: makes prompt embeddings of segments; None: of their audio.
        """
        self.model, self.denoise, self.slots = model, denoise, slots
        self.prefill_batch = prefill_batch or -(-slots // 4)
        self.calls = calls
        self.head = head
        self.prompt_embeds = embed or partial(audio_prompts, model, calls)
        own = model.config.canvas_length
        self.lengths = canvas_policy.lengths(denoise.canvas_length, own=own)
        self.lanes: dict[int, Lane] = {}
        self._row_steps = (0, 0)  # computed and needed, of the lanes before the last halving
        self._warm_compilations = 0
        self.pending: deque[Job] = deque()
        self.ready: dict[int, deque[Prepared]] = {length: deque() for length in self.lengths}
        self._prefilling: list[Job] = []
        self._passed_over = dict.fromkeys(self.lengths, 0)
        self._widths = prompt_widths(model.prompt_length, model.config.audio_slots, 0, static=calls.static)
        self._device = model.backbone.lm_head.weight.device
        self._side = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    @property
    def full_length(self) -> int:
        """The longest canvas. A row that fills it does not run again."""
        return self.lengths[-1]

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not (self.pending or self.prefilled or any(lane.active for lane in self.lanes.values()))

    @property
    def prefilled(self) -> int:
        """Prompts that wait for a slot, of all lanes."""
        return sum(len(ready) for ready in self.ready.values())

    @property
    def row_steps(self) -> tuple[int, int]:
        """Steps of rows that were computed, and those that segments needed. Steps of empty rows are the difference."""
        computed, needed = self._row_steps
        for lane in list(self.lanes.values()):  # another thread may ask
            computed, needed = computed + lane.row_steps_computed, needed + lane.row_steps_needed
        return computed, needed

    @property
    def recompilations(self) -> int:
        """Graphs that this process has compiled since the lanes were warm; 0 in steady state."""
        return compilations() - self._warm_compilations

    def add(self, job: Job, *, first: bool = False) -> None:
        """Put a job into the queue, at the end or (first) at the beginning."""
        if first:
            self.pending.appendleft(job)
        else:
            self.pending.append(job)

    def turn(self) -> list[Finished]:
        """Fill the free slots of one lane and do one step of it. Returns the rows that ended."""
        finished: list[Finished] = []
        self._guarded(lambda: finished.extend(self._work()))
        return finished

    def make_lanes(self) -> None:
        """Allocate all storage and compile all code, with fewer slots where the memory is not enough."""
        self._guarded(self._make_lanes)

    def _work(self) -> list[Finished]:
        """A turn. It may run out of memory."""
        self._admit()
        done = 0
        if self.pending and not any(lane.active for lane in self.lanes.values()):
            done = self._prefill()
            self._admit()
        lane = self.lanes[self._next_lane()]
        while self.pending and lane.free and done < self.slots and self.prefilled <= self.prefill_batch:
            done += self._prefill()
            self._admit()
        return lane.denoise_once(meanwhile=self._prefill_ahead)

    def _admit(self) -> None:
        """Fill the free slots of all lanes with what is ready for them."""
        for length, lane in self.lanes.items():
            ready = self.ready[length]
            while ready and lane.free:
                lane.admit(ready[0])
                ready.popleft()

    def _next_lane(self) -> int:
        """The canvas length of the lane that steps next: one that has waited too long, else the fullest."""
        rows = {n: min(self.slots, lane.active + len(self.ready[n])) for n, lane in self.lanes.items()}
        passed = self._passed_over
        chosen = max(rows, key=lambda n: (passed[n] if passed[n] >= PATIENCE else 0, rows[n], passed[n]))
        for n in rows:
            passed[n] = passed[n] + 1 if rows[n] and n != chosen else 0
        return chosen

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work`. Where accelerator memory runs out, halve the slots and try again."""
        next_try: Callable[[], None] | None = work
        while next_try is not None:
            try:
                next_try()
                next_try = None
            except RuntimeError as err:
                if self.slots == 1 or not memory_exhausted(err):
                    raise
                next_try = self._halve  # not called here: the traceback of `err` keeps the tensors alive

    def _halve(self) -> None:
        """Halve the slots and the prefill batch. Rows in flight go to the front of the queue and start again."""
        log.warning("accelerator memory is exhausted: %d canvas slots become %d", self.slots, self.slots // 2)
        started: list[Job] = []
        for length in self.lengths:
            started += self.lanes[length].jobs if length in self.lanes else []
            started += [prepared.job for prepared in self.ready[length]]
            self.ready[length].clear()
        started += self._prefilling
        self.pending.extendleft(reversed(started))
        self._prefilling = []
        self._row_steps = self.row_steps
        self.lanes.clear()
        self.slots, self.prefill_batch = self.slots // 2, max(1, self.prefill_batch // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._make_lanes()

    def _make_lanes(self) -> None:
        """Allocate all storage and compile all code. It may run out of memory."""
        model = self.model
        guided = self.denoise.guidance != 1
        step = tile_step_for(self.head, self.calls.tile_step, model.backbone.lm_head.weight, guided=guided)
        self.calls = replace(self.calls, tile_step=step)
        for n in self.lengths:
            self.lanes[n] = Lane(model, slots=self.slots, canvas_length=n, denoise=self.denoise, calls=self.calls)
            self.lanes[n].warm_up()
        if self.calls.static:
            for size in prefill_buckets(self.prefill_batch, static=True):
                for eighths in STATIC_EIGHTHS:
                    silence = bytes(2 * (model.config.window_samples * eighths // 8))
                    self.prompts([Segment("", None, silence)] * size)
        self._warm_compilations = compilations()

    def _prefill_ahead(self) -> None:
        """Prefill one more batch, unless half a batch is ready."""
        if self.pending and self.prefilled <= self.prefill_batch // 2:
            self._prefill()

    def _prefill(self) -> int:
        """Prefill the next segments, at most `prefill_batch`, and choose their lanes. Returns how many they are."""
        pending = self.pending
        jobs = self._prefilling = [pending.popleft() for _ in range(min(self.prefill_batch, len(pending)))]
        segments = [job.segment for job in jobs]
        if self.calls.static:  # few shapes: repeat the last segment
            size = next(n for n in prefill_buckets(self.prefill_batch, static=True) if n >= len(jobs))
            segments += segments[-1:] * (size - len(jobs))
        prompts = self.prompts(segments)
        if prompts.made and len(self.lengths) > 1:
            prompts.made.synchronize()  # the lanes depend on what CTC has heard
        for row, job in enumerate(jobs):
            slots = prompts.slots[row]
            length = job.length or self._length(slots)
            for vote in job.votes:
                prepared = replace(job, slots=slots, length=length, votes=(vote,))
                keys = noise.row_keys(noise.sound_key(job.segment.pcm), self.denoise.seed, vote)
                self.ready[length].append(Prepared(prepared, keys, prompts.kv, row, prompts.made, prompts.kept[row]))
        self._prefilling = []
        return len(jobs)

    def _length(self, slots: SlotScores) -> int:
        """The canvas length for a prefilled segment, by `denoise.canvas_length`."""
        if len(self.lengths) == 1:
            return self.full_length
        tokens = len(greedy(slots, blank=self.model.config.tokens.ctc_blank))
        return canvas_policy.choose(self.lengths, tokens=tokens)

    @torch.inference_mode()
    def prompts(self, segments: list[Segment]) -> Prompts:
        """Prefill the prompts of segments without the slots that only hold padding; score the other slots for CTC.

        On CUDA that runs in the side stream; others may use it after the event.
        """
        model = self.model
        samples = [len(segment.pcm) // 2 for segment in segments]
        real = [model.config.real_slots(count) for count in samples]
        shown = [model.config.seen_slots(count) for count in samples]
        kept = [model.prompt_length - model.config.audio_slots + slots for slots in shown]
        width = self._widths[bisect.bisect_left(self._widths, max(kept))]
        with torch.cuda.stream(self._side):  # does nothing for None
            embeds = self.prompt_embeds(segments)
            positions = model.real_positions(torch.tensor(shown, device=embeds.device), model.prompt_length, width)
            kv, _ = self.calls.prefill(model.backbone, at(embeds, positions), positions)
            audio = embeds[:, model.audio_start : model.audio_start + max(real)]
            best, mass = score_slots(audio.flatten(0, 1), model.backbone.lm_head.weight)
        rows = zip(real, audio, best.view(len(real), -1), mass.view(len(real), -1), strict=True)
        scores = [SlotScores(vectors[:n], tokens[:n], sums[:n]) for n, vectors, tokens, sums in rows]
        if self._side is None:
            return Prompts(kv, kept, scores, None)
        stream = torch.cuda.current_stream()
        made_there = [tensor for layer in kv.layers for tensor in (layer.keys, layer.values)] + [embeds, best, mass]
        for tensor in made_there:  # memory of the side stream, read by this stream
            tensor.record_stream(stream)
        return Prompts(kv, kept, scores, self._side.record_event())


def audio_prompts(model: AsrModel, calls: Calls, segments: list[Segment]) -> Tensor:
    """Prompt embeddings [segments, prompt length, hidden]: features, encoder, projector, text of the prompt."""
    windows = np.stack([from_pcm(segment.pcm, model.config.window_samples) for segment in segments])
    mel = model.encoder.log_mel(torch.from_numpy(windows).to(model.backbone.lm_head.weight.device))
    audio = calls.audio_vectors(model, mel.to(model.projector.input.weight.dtype))
    return model.prompt_embeds(audio, [segment.language for segment in segments])
