"""A fixed number of canvas slots of one length that are denoised together, each with its own step, prompt and noise."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.denoise.compiled import Calls, prompt_widths, slot_buckets
from pipeline.model.denoise.signals import FinalCanvas
from pipeline.model.denoise.step import Rows
from pipeline.model.denoise.vocabulary_head import Guide, HeadOutput, run_head
from pipeline.model.network.backbone import LayerKV, PromptKV
from pipeline.model.recogniser import AsrModel

# With the T = 1 outputs the head of a step costs a third more for all rows. A second pass for the rows that end costs a
# whole head for them. So the outputs are part of the step where at least one row in RAW_COST is at its last step.
RAW_COST = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """A segment that waits for a slot. Its prompt is in the KV cache already, as row `row` of `kv`."""

    job: Any
    keys: tuple[int, int]
    kv: PromptKV
    row: int
    made: torch.cuda.Event | None = None  # another stream may read `kv` after it; None: at once
    kept: int | None = None  # the first positions of that row, which the canvas sees; None: all


class Hidden(NamedTuple):
    """Final hidden states [rows, canvas, hidden] of the model's pass, and of one that does not see the audio."""

    audio: Tensor
    without: Tensor | None = None  # None: no guidance

    def rows(self, index: Any) -> Hidden:
        """Some rows. index: anything that indexes dimension 0."""
        return Hidden(self.audio[index], None if self.without is None else self.without[index])


@dataclass(frozen=True, slots=True)
class Finished:
    """A row that has left its slot. canvas: None where its logits were not finite."""

    job: Any
    canvas: FinalCanvas | None


class Lane:
    """Slots for canvases. The active rows are always the first `active` slots, so a step works on views of them.

    Where a row leaves, the last active row moves into its slot. Storage is allocated once: KV [slots, heads, prompt,
    dim] per layer, and the state of `slots` canvases. A step computes the smallest number of rows in `buckets` that
    has room for the active ones, and reads the smallest number of prompt positions in `widths` that has room for
    theirs. With compiled calls there are few such numbers, so nothing is compiled again.
    """

    def __init__(
        self,
        model: AsrModel,
        *,
        slots: int,
        canvas_length: int,
        denoise: DenoiseConfig,
        tile: int | None = None,
        calls: Calls | None = None,
    ) -> None:
        self.model, self.slots, self.length, self.denoise, self.tile = model, slots, canvas_length, denoise, tile
        self.calls = calls or Calls.make(compile=False)
        self.buckets = slot_buckets(slots, static=self.calls.static)
        weight = model.backbone.lm_head.weight
        device, dtype = weight.device, weight.dtype
        self.prompt = model.prompt_length  # positions of a whole prompt: where every canvas starts
        self.widths = prompt_widths(self.prompt, model.config.audio_slots, canvas_length, static=self.calls.static)
        self.kv = allocate_kv(model, slots, self.widths[-1], dtype)
        self.kept = torch.zeros(slots, dtype=torch.int64, device=device)
        self.keys = torch.zeros(slots, 2, dtype=torch.int32, device=device)
        self.step = torch.zeros(slots, dtype=torch.int32, device=device)
        self.canvas = torch.zeros(slots, canvas_length, dtype=torch.int64, device=device)
        self.argmax = torch.full_like(self.canvas, -1)
        self.unchanged = torch.zeros(slots, dtype=torch.int32, device=device)
        self.soft = torch.zeros(slots, canvas_length, weight.shape[1], dtype=dtype, device=device)
        self.stable_since = torch.zeros(slots, canvas_length, dtype=torch.int32, device=device)
        self.revisions = torch.zeros_like(self.stable_since)
        self.early = torch.zeros_like(self.canvas)
        self.jobs: list[Any] = []
        self.done: list[int] = []  # finished steps of each active row: `step`, on the host
        self.needs: list[int] = []  # prompt positions of each active row: `kept`, on the host
        self.row_steps_computed = 0
        self.row_steps_needed = 0

    @property
    def active(self) -> int:
        """Slots with a row."""
        return len(self.jobs)

    @property
    def _rows(self) -> Rows:
        """The state of all slots. Steps write into it."""
        return Rows(self.canvas, self.argmax, self.unchanged, self.revisions, self.stable_since, self.early, self.step)

    @property
    def free(self) -> int:
        """Slots without a row."""
        return self.slots - len(self.jobs)

    def admit(self, prepared: Prepared) -> None:
        """Put a segment into the next free slot, with its own prompt and a canvas of random tokens, at step 0.

        Raises ValueError where no slot is free.
        """
        slot = len(self.jobs)
        if slot >= self.slots:
            raise ValueError("no free slot")
        if prepared.made is not None:
            torch.cuda.current_stream().wait_event(prepared.made)
        kept = prepared.kv.length if prepared.kept is None else prepared.kept
        for own, given in zip(self.kv.layers, prepared.kv.layers, strict=True):
            for mine, other in ((own.keys, given.keys), (own.values, given.values)):
                mine[slot, :, :kept].copy_(other[prepared.row, :, :kept])
                mine[slot, :, kept:] = 0  # not seen, but a NaN of the last row times 0 would be one
        self.kept[slot] = kept
        self.keys[slot] = torch.tensor(prepared.keys, dtype=torch.int32)
        rows = slice(slot, slot + 1)
        vocab = self.model.config.vocab_size
        self.step[slot] = 0
        self.canvas[rows] = noise.random_tokens(self.keys[rows], self.step[rows], noise.CANVAS, self.length, vocab)
        self.argmax[slot] = -1
        self.unchanged[slot] = 0
        self.soft[slot] = 0
        self.stable_since[slot] = 1
        self.revisions[slot] = 0
        self.jobs.append(prepared.job)
        self.done.append(0)
        self.needs.append(kept)

    @torch.inference_mode()
    def denoise_once(self, meanwhile: Callable[[], None] | None = None) -> list[Finished]:
        """One step for all active rows. Returns the rows that ended with it; their slots are free again.

        meanwhile: called while the accelerator computes the step, before anything waits for its results.
        """
        if not self.active:
            return []
        n = self.buckets[bisect.bisect_left(self.buckets, self.active)]
        self.step[self.active : n] = 0  # rows without a segment: computed and ignored
        last = {row for row, done in enumerate(self.done) if done + 1 >= self.denoise.max_steps}
        raw = not self.calls.static and len(last) * RAW_COST >= n
        # Fewer rows are the end of a job: not worth another graph.
        most = max(self.needs) if n == self.slots or not self.calls.static else self.widths[-1]
        hidden, head, ends = self._step(n, self.widths[bisect.bisect_left(self.widths, most)], raw=raw)
        self.done = [done + 1 for done in self.done]
        self.row_steps_computed += n
        self.row_steps_needed += self.active
        if meanwhile is not None:
            meanwhile()
        ended = [row for row in ends.nonzero()[:, 0].tolist() if row < self.active]
        if not ended:
            return []
        if not (raw and last.issuperset(ended)):
            probability, entropy = self.final_outputs(hidden.rows(ended))
        else:
            probability, entropy = (of.view(n, -1)[ended].tolist() for of in (head.probability, head.entropy_raw))
        finished = [self._finish(row, head, probability[i], entropy[i]) for i, row in enumerate(ended)]
        for row in reversed(ended):
            self._release(row)
        return finished

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run a step of every size once, so that all code is compiled. The lane must be empty."""
        sizes = [(n, self.widths[-1]) for n in self.buckets] + [(self.slots, width) for width in self.widths[:-1]]
        for n, width in sizes if self.calls.static else ():
            hidden, head, _ = self._step(n, width, raw=False)
            self.final_outputs(hidden.rows(slice(1)))
            del head
        self.step.zero_()

    def _step(self, n: int, width: int, *, raw: bool) -> tuple[Hidden, HeadOutput, Tensor]:
        """A step of rows 0 ... n - 1: final hidden states [n, canvas, hidden], the head's output, and which rows end.

        width: prompt positions that are read. raw: compute the T = 1 outputs too.
        """
        rows = Rows(*(state[:n] for state in self._rows))
        drawn = self.calls.draw(
            self.keys[:n], rows.step, length=self.length, vocab=self.model.config.vocab_size, denoise=self.denoise
        )
        hidden = self._denoise(rows.canvas, n, width)
        head = self._head(hidden, drawn.temperature, drawn.sample_keys, raw=raw)
        after, ends = self.calls.advance(
            rows, head.entropy, head.argmax, head.sample, drawn.tokens, denoise=self.denoise
        )
        for own, new in zip(rows, after, strict=True):
            own.copy_(new)
        self.soft[:n] = head.soft.view(n, self.length, -1)
        return hidden, head, ends

    def _denoise(self, canvas: Tensor, n: int, width: int) -> Hidden:
        """The model's pass over rows 0 ... n - 1, and with guidance a second one that does not see the audio."""
        model, kept = self.model, self.kept[:n, None]
        places = torch.arange(width, device=canvas.device)[None]
        seen = places < kept
        views = [seen]
        if self.denoise.guidance != 1:
            text = self.prompt - model.config.audio_slots  # positions around the audio
            views.append(seen & ((places < model.audio_start) | (places >= kept - text + model.audio_start)))
        prompt = replace(self.kv.rows(slice(0, n)).cut(width), start=self.prompt)
        return Hidden(
            *(self.calls.denoise(model.backbone, canvas, self.soft[:n], replace(prompt, seen=view)) for view in views)
        )

    def _head(self, hidden: Hidden, temperature_N: Tensor, keys_N2: Tensor, *, raw: bool) -> HeadOutput:
        """The vocabulary head over hidden states [n, canvas, hidden]."""
        guide = None
        if hidden.without is not None:
            guide = Guide(hidden.without.reshape(len(keys_N2), -1), self.denoise.guidance)
        return run_head(
            hidden.audio.reshape(len(keys_N2), -1),
            self.model.backbone.lm_head.weight,
            softcap=self.model.backbone.final_logit_softcapping,
            temperature_N=temperature_N,
            keys_N2=keys_N2,
            tile=self.tile,
            raw=raw,
            guide=guide,
            step=self.calls.tile_step,
            settle=self.calls.settle,
        )

    def final_outputs(self, hidden: Hidden) -> tuple[list[list[float]], list[list[float]]]:
        """T = 1 probability and entropy of rows [n, canvas, hidden] whose last step did not compute them.

        With static shapes it takes one row at a time, so that only one shape is compiled.
        """
        probability, entropy = [], []
        at_once = 1 if self.calls.static else len(hidden.audio)
        for first in range(0, len(hidden.audio), at_once):
            rows = hidden.rows(slice(first, first + at_once))
            n, device = len(rows.audio), rows.audio.device
            keys = torch.zeros(n * self.length, 2, dtype=torch.int32, device=device)  # the sample is not used
            head = self._head(rows, torch.ones(len(keys), device=device), keys, raw=True)
            probability += head.probability.view(n, -1).tolist()
            entropy += head.entropy_raw.view(n, -1).tolist()
        return probability, entropy

    def _finish(self, row: int, head: HeadOutput, probability: list[float], entropy: list[float]) -> Finished:
        at = slice(row * self.length, (row + 1) * self.length)
        if not bool(head.entropy[at].isfinite().all()):
            return Finished(self.jobs[row], None)
        canvas = FinalCanvas(
            tokens=self.argmax[row].tolist(),
            probability=probability,
            entropy=entropy,
            stable_since=self.stable_since[row].tolist(),
            revisions=self.revisions[row].tolist(),
            early=self.early[row].tolist(),
            steps=int(self.step[row]),
        )
        return Finished(self.jobs[row], canvas)

    def _release(self, row: int) -> None:
        """Free a slot. The last active row moves into it."""
        last = len(self.jobs) - 1
        if row != last:
            for layer in self.kv.layers:
                layer.keys[row].copy_(layer.keys[last])
                layer.values[row].copy_(layer.values[last])
            for state in (self.keys, self.kept, self.soft, *self._rows):
                state[row] = state[last]
        for of_rows in (self.jobs, self.done, self.needs):
            of_rows[row] = of_rows[last]
            of_rows.pop()


def allocate_kv(model: AsrModel, slots: int, positions: int, dtype: torch.dtype) -> PromptKV:
    """Zeroed KV of every layer: [slots, kv heads, positions, head dim]."""
    device = model.backbone.lm_head.weight.device
    layers = []
    for layer in model.backbone.model.decoder.layers:
        attention = layer.self_attn
        heads = attention.k_proj.out_features // attention.head_dim
        shape = (slots, heads, positions, attention.head_dim)
        layers.append(
            LayerKV(torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype))
        )
    return PromptKV(layers)
