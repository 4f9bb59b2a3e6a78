"""The denoising engine: segments go in, results come out, all slots stay full. Two threads: model, and texts."""

from __future__ import annotations

from concurrent.futures import Future, wait
from dataclasses import replace
from queue import SimpleQueue
from threading import Thread

import torch

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import confidence, ctc
from pipeline.model.denoise.compiled import Calls
from pipeline.model.denoise.lane import Finished
from pipeline.model.denoise.scheduler import Embed, Job, Scheduler
from pipeline.model.denoise.signals import FinalCanvas, spoken_tokens
from pipeline.model.denoise.votes import Ballot
from pipeline.model.positions import POSITIONS_PER_SECOND
from pipeline.model.recogniser import AsrModel
from pipeline.model.worker import REPEATED_NAN, EngineDead, Worker
from pipeline.schemas import Segment, SegmentResult

Ended = tuple[Job, FinalCanvas | None, list[int]]  # a row, its last step (None: a lost vote), the tokens of its text

__all__ = ["REPEATED_NAN", "Engine", "EngineDead"]


class Engine(Worker):
    """A worker whose turns are denoising steps. `Scheduler` decides their order.

    With `denoise.votes`, a segment whose first text has a low confidence comes back to the scheduler: one prompt, and
    a row for each further vote. The lanes take these rows like all others. `votes.py` makes one text of them.

    The constructor allocates all storage and compiles all code; it raises the error where that fails.
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
        head: str = "torch",
        embed: Embed | None = None,
    ) -> None:
        """prefill_batch: prompts that are prefilled together; None: a quarter of the slots.

        head: `model.head` of the config. Raises ConfigError where `triton` cannot run on this machine.
        embed: makes prompt embeddings of segments; None: features, encoder and projector make them of the audio.
        """
        super().__init__()
        self.model = model
        calls = Calls.make(compile=compile, cache=compile_cache)
        self.scheduler = Scheduler(
            model, denoise, slots=slots, prefill_batch=prefill_batch, calls=calls, head=head, embed=embed
        )
        self.reruns = 0  # rows that ran again on the full canvas
        self._eos = set(model.config.tokens.eos)
        self._ended: SimpleQueue[Ended | None] = SimpleQueue()  # the next step does not wait for their texts
        self._unsure: SimpleQueue[Job] = SimpleQueue()  # to be voted on: from the thread of texts to that of the model
        self._texts = Thread(target=self._make_texts, name="texts", daemon=True)
        self._texts.start()
        self.start()

    def check(self, segment: Segment) -> None:
        window = 2 * self.model.config.window_samples
        if len(segment.pcm) % 2 or len(segment.pcm) > window:
            raise ValueError(f"segment {segment.key}: {len(segment.pcm)} bytes of int16 in a window of {window}")
        if (segment.language or "") not in self.model.prompts:
            raise ValueError(f"segment {segment.key}: no prompt for language {segment.language!r}")

    def warm_up(self) -> None:
        """Allocate and compile. Sets the GPU of this thread, which is the first one by default, to the model's."""
        device = self.model.backbone.lm_head.weight.device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.scheduler.make_lanes()

    @property
    def idle(self) -> bool:
        return self.scheduler.idle

    def add(self, segment: Segment, future: Future[SegmentResult]) -> None:
        self.scheduler.add(Job(segment, future))

    def turn(self) -> None:
        """Prefill prompts, fill free slots, do one denoising step."""
        while not self._unsure.empty():
            self.scheduler.add(self._unsure.get(), first=True)
        for finished in self.scheduler.turn():
            self._deliver(finished)

    def figures(self) -> dict[str, float]:
        lanes = list(self.scheduler.lanes.values())
        computed, needed = self.scheduler.row_steps
        slots = {"slots": sum(lane.slots for lane in lanes), "slots_busy": sum(lane.active for lane in lanes)}
        return super().figures() | slots | {"row_steps_computed": computed, "row_steps_needed": needed}

    def close(self) -> None:
        with self._lock:
            self._closed = True
            unresolved = list(self._unresolved)
        wait(unresolved)  # some of them may come back for votes
        super().close()
        self._ended.put(None)
        self._texts.join()

    def _deliver(self, finished: Finished) -> None:
        """Run a row again where it has overflowed a short canvas; else let the other thread make its result."""
        job: Job = finished.job
        canvas = finished.canvas
        if not self.is_finite(canvas is not None, job.future) or canvas is None:
            if job.ballot:
                self._ended.put((job, None, []))
            return
        tokens = spoken_tokens(canvas, self._eos)
        if len(tokens) == len(canvas.tokens) < self.scheduler.full_length:
            self.reruns += 1
            self.scheduler.add(replace(job, length=self.scheduler.full_length), first=True)
            return
        self._ended.put((job, canvas, tokens))

    def _make_texts(self) -> None:
        """Resolve the futures of ended rows, beside the next steps. An error is a fault of the model as well."""
        while ended := self._ended.get():
            try:
                self._count(*ended)
            except Exception as err:  # noqa: BLE001  any error ends the engine and is reported
                self.fail(err)

    def _count(self, job: Job, canvas: FinalCanvas | None, tokens: list[int]) -> None:
        """Resolve the future of a segment, or ask for votes, or count one of them."""
        result = self._result(job, canvas, tokens) if canvas else None
        wanted = self.scheduler.denoise
        if job.ballot:
            if elected := job.ballot.cast(job.votes[0], result):
                self.resolve(job.ballot.future, elected)
        elif result and wanted.votes > 1 and (result.confidence or 0) < wanted.votes_below:
            ballot = Ballot(job.future, wanted.votes, result)
            # Its own future only takes the error of a vote without finite logits, which is then not counted.
            self._unsure.put(Job(job.segment, Future(), votes=tuple(range(1, wanted.votes)), ballot=ballot))
            self._arrivals.put([])  # the model's thread may be waiting for work
        elif result:
            self.resolve(job.future, result)

    def _result(self, job: Job, canvas: FinalCanvas, tokens: list[int]) -> SegmentResult:
        config = self.model.config
        weight, blank = self.model.backbone.lm_head.weight, config.tokens.ctc_blank
        kept = heard = None
        if job.slots:
            own = str(self.model.tokenizer.decode(ctc.greedy(job.slots, blank=blank), skip_special_tokens=True)).strip()
            if self.scheduler.denoise.remove_repeats:
                kept = confidence.without_repeats(tokens, own, self.model.tokenizer)
                tokens = [tokens[position] for position in kept.positions]
            heard = ctc.hypothesis(job.slots, weight, tokens, own, blank=blank)
        return confidence.result(
            canvas,
            heard,
            self.model.tokenizer,
            eos=self._eos,
            vocab_size=config.vocab_size,
            sound=confidence.Sound(job.segment.pcm, 1000 * config.projector.subsample / POSITIONS_PER_SECOND),
            kept=kept,
        )
