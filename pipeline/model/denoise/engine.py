"""The denoising engine: segments go in, results come out, and all slots stay full. One thread owns the model."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import torch

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import confidence, ctc
from pipeline.model.denoise.compiled import Calls
from pipeline.model.denoise.lane import Finished
from pipeline.model.denoise.scheduler import Embed, Job, Scheduler
from pipeline.model.positions import POSITIONS_PER_SECOND
from pipeline.model.recogniser import AsrModel
from pipeline.model.worker import REPEATED_NAN, EngineDead, Worker
from pipeline.schemas import Segment, SegmentResult

__all__ = ["REPEATED_NAN", "Engine", "EngineDead"]


class Engine(Worker):
    """A worker whose turns are denoising steps. `Scheduler` decides their order.

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
        for finished in self.scheduler.turn():
            self._deliver(finished)

    def _deliver(self, finished: Finished) -> None:
        job: Job = finished.job
        canvas = finished.canvas
        if not self.is_finite(canvas is not None, job.future) or canvas is None:
            return
        config = self.model.config
        tokens = confidence.spoken_tokens(canvas, self._eos)
        weight, blank = self.model.backbone.lm_head.weight, config.tokens.ctc_blank
        kept = heard = None
        if job.slots:
            own = str(self.model.tokenizer.decode(ctc.greedy(job.slots, blank=blank), skip_special_tokens=True)).strip()
            if self.scheduler.denoise.remove_repeats:
                kept = confidence.without_repeats(tokens, own, self.model.tokenizer)
                tokens = [tokens[position] for position in kept.positions]
            heard = ctc.hypothesis(job.slots, weight, tokens, own, blank=blank)
        result = confidence.result(
            canvas,
            heard,
            self.model.tokenizer,
            eos=self._eos,
            vocab_size=config.vocab_size,
            sound=confidence.Sound(job.segment.pcm, 1000 * config.projector.subsample / POSITIONS_PER_SECOND),
            kept=kept,
        )
        full = self.scheduler.full_length
        if result.overflow and result.canvas_length < full:
            self.reruns += 1
            self.scheduler.add(replace(job, length=full), first=True)
            return
        job.future.set_result(result)
