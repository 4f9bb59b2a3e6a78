"""The three losses (CTC, autoregressive, uniform diffusion), and their sum in each phase of a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion

from pipeline.model.network import backbone
from pipeline.model.network.backbone import PromptKV
from pipeline.model.recogniser import AsrModel
from pipeline.training.batches import Batch
from pipeline.training.schedule import TrainingSteps

Phase = Literal["ctc", "autoregressive", "diffusion"]
Figures = dict[str, float]
Prefill = Callable[[DiffusionGemmaForBlockDiffusion, Tensor, Tensor], tuple[PromptKV, Tensor]]


TEMPERATURES = (0.4, 0.8)  # of the first pass of self-conditioning, from a clean canvas to noise


@dataclass(frozen=True, slots=True)
class DiffusionKnobs:
    """What the diffusion loss needs of `schedule.TrainingSteps`."""

    draws: int
    all_noise_share: float
    self_conditioning_share: float
    eos_weight: float
    all_noise_by: Literal["example", "batch"] = "example"
    corrupted_only: bool = False


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model whose distributions are learned where it is right (distillation, arXiv 1503.02531).

    It may have another prompt than the model that learns; vocabulary, encoder and canvas are the same.
    """

    model: AsrModel
    weight: float  # of its distribution beside the true token
    sure: float  # nats: it teaches rows whose text it predicts with a mean cross-entropy below this

    @torch.no_grad()
    def prompted(self, batch: Batch, languages: list[str | None], draws: int) -> PromptKV:
        """The cache of its prompts for a batch, each `draws` times."""
        own = self.model
        prompt = own.prompt_embeds(_with_all_slots(own, own.projector(batch.inputs)), languages)
        shown = _seen_slots(own, batch.real_slots)
        _, cache = autoregressive_loss(own, prompt, shown, batch.targets_BC, batch.text_lengths)
        return cache.repeat(draws)

    def blend(
        self, losses: Tensor, logits: Tensor, seen: tuple[Tensor, Tensor, PromptKV], truth: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Losses per position [rows, canvas], with its distribution as a target where it is right.

        logits: of the model that learns. seen: the canvas, the soft embeddings and `prompted`. truth: the true tokens,
        and which positions are text [rows, canvas].
        """
        canvas, soft, cache = seen
        targets, text = truth
        with torch.no_grad():
            theirs = backbone.softcapped_logits(
                self.model.backbone, backbone.denoise(self.model.backbone, canvas, soft, cache)
            )
            own = F.cross_entropy(theirs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
            right = (own * text).sum(1) / text.sum(1).clamp_min(1) < self.sure
            probs = theirs.softmax(-1)
        taught = -(probs * logits.log_softmax(-1)).sum(-1)
        return torch.where(right[:, None], losses + self.weight * (taught - losses), losses)


def _seen_slots(model: AsrModel, real_slots: Tensor) -> Tensor:
    """The audio slots that a model's backbone sees."""
    hidden = model.config.prompt.silence == "hidden"
    return real_slots if hidden else torch.full_like(real_slots, model.config.audio_slots)


def _with_all_slots(model: AsrModel, audio_BSH: Tensor) -> Tensor:
    """The output of a projector, with zeros for the slots behind the end of its features."""
    return F.pad(audio_BSH, (0, 0, 0, model.config.audio_slots - audio_BSH.shape[1]))


def training_loss(
    model: AsrModel,
    audio_BSH: Tensor,
    batch: Batch,
    phase: Phase,
    steps: TrainingSteps,
    generator: torch.Generator,
    prefill: Prefill = backbone.prefill,
    teacher: Teacher | None = None,
    ctc_consistency: float = 0.0,
) -> tuple[Tensor, Figures]:
    """The loss of one batch in one phase.

    Args:
        model: whose backbone predicts the text.
        audio_BSH: the projector's output for the batch; with ctc_consistency, for one view of it and then for another.
        batch: its texts and languages, on the model's device.
        phase: "ctc": CTC alone; "autoregressive": with the next-token loss; "diffusion": with all three.
        steps: the weights of the losses.
        generator: on the CPU, for dropped languages and noise.
        prefill: or `checkpointing.prefill`, which gives the same in less memory.
        teacher: of the diffusion loss, or None.
        ctc_consistency: of `disagreement`, which the CTC loss has besides; only CTC sees the second view.

    Returns:
        The loss, and for the log every part of it and `infeasible`, the rows that are too long for CTC.
    """
    targets, lengths = batch.targets_BC, batch.text_lengths
    real = batch.real_slots
    audio_BSH = _with_all_slots(model, audio_BSH)
    ctc, infeasible = ctc_loss(model, audio_BSH, real, targets, lengths, ctc_consistency)
    audio_BSH = audio_BSH[: len(real)]
    if phase == "ctc":
        return ctc, _figures({"loss": ctc, "ctc": ctc}, infeasible)
    dropped = torch.rand(len(batch.languages), generator=generator) < steps.language_dropout
    languages = [None if drop else name for name, drop in zip(batch.languages, dropped.tolist(), strict=True)]
    prompt = model.prompt_embeds(audio_BSH, languages)
    ar, cache = autoregressive_loss(model, prompt, _seen_slots(model, real), targets, lengths, prefill)
    if phase == "autoregressive":
        loss = ar + steps.ctc_weight * ctc
        return loss, _figures({"loss": loss, "ar": ar, "ctc": ctc}, infeasible)
    names = (field.name for field in dataclasses.fields(DiffusionKnobs))
    knobs = DiffusionKnobs(**{name: getattr(steps, name) for name in names})
    taught = (teacher, teacher.prompted(batch, languages, steps.draws)) if teacher else None
    diffusion, noisy = diffusion_loss(model, cache, targets, lengths, knobs, generator, taught)
    loss = diffusion + steps.autoregressive_weight * ar + steps.ctc_weight * ctc
    parts = {"loss": loss, "diffusion": diffusion, "ar": ar, "ctc": ctc, "ce_t>0.9": noisy}
    return loss, _figures(parts, infeasible)


def _figures(parts: dict[str, Tensor], infeasible: int) -> Figures:
    return {name: float(value.detach()) for name, value in parts.items()} | {"infeasible": float(infeasible)}


def ctc_loss(
    model: AsrModel,
    audio_BSH: Tensor,
    real_slots: Tensor,
    targets_BC: Tensor,
    text_lengths: Tensor,
    consistency: float = 0.0,
) -> tuple[Tensor, int]:
    """The mean CTC loss per token through the lm_head, and the number of infeasible rows, whose loss is zero.

    Logits have no softcap, and slots that only hold silence padding are left out (arXiv 2607.13013). A text with more
    tokens than its row has slots is cut to them. A row is feasible with at least as many slots as it has tokens and
    adjacent equal tokens. With `consistency`, audio_BSH is two views of the batch, one behind the other: the loss is
    the mean of both, and this many times their `disagreement`.
    """
    log_probs = backbone.raw_logits(model.backbone, audio_BSH).log_softmax(-1)
    text_lengths = torch.minimum(text_lengths, real_slots)
    within = torch.arange(1, targets_BC.shape[1], device=text_lengths.device) < text_lengths[:, None]
    repeats = ((targets_BC[:, 1:] == targets_BC[:, :-1]) & within).sum(1)
    infeasible = int((text_lengths + repeats > real_slots).sum())
    views = len(audio_BSH) // len(real_slots)
    loss = F.ctc_loss(
        log_probs.transpose(0, 1),
        targets_BC.repeat(views, 1),
        real_slots.repeat(views),
        text_lengths.repeat(views),
        blank=model.config.tokens.ctc_blank,
        zero_infinity=True,
    )
    if consistency:
        loss = loss + consistency * disagreement(log_probs, real_slots, text_lengths)
    return loss, infeasible


def disagreement(log_probs_BSV: Tensor, real_slots: Tensor, text_lengths: Tensor) -> Tensor:
    """How far the CTC distributions of two views of a batch are apart: nats per token, the mean of the rows.

    log_probs_BSV: of one view, then of the other. It is the Kullback-Leibler divergence in both directions, halved;
    each view learns from the other, which has no gradient there (CR-CTC, arXiv 2410.05101).
    """
    one, other = log_probs_BSV.chunk(2)
    real = torch.arange(one.shape[1], device=one.device)[None] < real_slots[:, None]
    apart = torch.zeros(len(one), device=one.device)
    for learns, teaches in ((one, other.detach()), (other, one.detach())):
        apart = apart + 0.5 * ((teaches.exp() * (teaches - learns)).sum(-1) * real).sum(1)
    return (apart / text_lengths.clamp_min(1)).mean()


def autoregressive_loss(
    model: AsrModel,
    prompt_BPH: Tensor,
    real_slots: Tensor,
    targets_BC: Tensor,
    text_lengths: Tensor,
    prefill: Prefill = backbone.prefill,
) -> tuple[Tensor, PromptKV]:
    """Next-token cross-entropy over text and first end token, in one causal pass over prompt and text.

    real_slots: int64 [batch], the audio slots that are seen; the pass leaves the others out. Returns the loss, and the
    cache of the pass cut back to the prompt, for the decoder. The pass is causal, so the text has not changed the
    prompt's part. prefill: or `checkpointing.prefill`, which gives the same in less memory.
    """
    length = prompt_BPH.shape[1]
    embeds = torch.cat([prompt_BPH, backbone.embed(model.backbone, targets_BC[:, :-1])], dim=1)
    kept = length - model.config.audio_slots + real_slots  # of the prompt
    most = int(kept.max())
    text = embeds.shape[1] - length
    positions = model.real_positions(real_slots, embeds.shape[1], most + text)
    cache, hidden = prefill(model.backbone, backbone.at(embeds, positions), positions)
    places = torch.arange(text + 1, device=kept.device)[None] + kept[:, None] - 1
    logits = backbone.softcapped_logits(model.backbone, backbone.at(hidden, places))
    counted = torch.arange(targets_BC.shape[1], device=targets_BC.device)[None] <= text_lengths[:, None]
    loss = F.cross_entropy(logits[counted], targets_BC[counted])
    seen = torch.arange(most, device=kept.device)[None] < kept[:, None]
    return loss, replace(cache.cut(most), start=length, seen=seen)


def corrupt(targets: Tensor, t: Tensor, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Replace each token with probability t (one t in [0, 1] per row) by a uniform random one: uniform diffusion.

    t and generator are on the CPU wherever the targets are, so that every device sees the same noise.
    """
    noise = torch.randint(vocab_size, targets.shape, generator=generator)
    replaced = torch.rand(targets.shape, generator=generator) < t[:, None]
    return torch.where(replaced.to(targets.device), noise.to(targets.device), targets)


def diffusion_loss(
    model: AsrModel,
    cache: PromptKV,
    targets_BC: Tensor,
    text_lengths: Tensor,
    knobs: DiffusionKnobs,
    generator: torch.Generator,
    taught: tuple[Teacher, PromptKV] | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the clean canvas from a corrupted one, with two-pass self-conditioning.

    All noise levels weigh the same. The first pass has no gradient and sees a canvas that is at least as noisy, as in
    denoising. generator: on the CPU. taught: a teacher and its prompts (`Teacher.prompted`).

    Returns the loss, and for the log the cross-entropy at t > 0.9 over positions of text alone (NaN where there are
    none).
    """
    device = targets_BC.device
    targets = targets_BC.repeat_interleave(knobs.draws, 0)
    lengths = text_lengths.repeat_interleave(knobs.draws, 0)
    cache = cache.repeat(knobs.draws)
    rows, vocab = len(targets), model.config.vocab_size
    draw = torch.rand(rows, 4, generator=generator)
    decides = draw[:1, 0] if knobs.all_noise_by == "batch" else draw[:, 0]
    t = torch.where(decides < knobs.all_noise_share, torch.ones(rows), draw[:, 1])
    canvas = corrupt(targets, t, vocab, generator)

    embeddings = model.backbone.lm_head.weight
    soft = torch.zeros(rows, targets.shape[1], embeddings.shape[1], device=device)
    chosen = (draw[:, 2] < knobs.self_conditioning_share).nonzero()[:, 0]
    conditioned = chosen.to(device)
    if len(conditioned):
        with torch.no_grad():
            noisier = t + (1 - t) * draw[:, 3]
            first = corrupt(targets, noisier, vocab, generator)[conditioned]
            zeros = soft[conditioned]
            hidden = backbone.denoise(model.backbone, first, zeros, cache.rows(conditioned))
            low, high = TEMPERATURES
            temperature = (low + (high - low) * noisier[chosen, None, None]).to(device)
            probs = (backbone.softcapped_logits(model.backbone, hidden) / temperature).softmax(-1)
            soft[conditioned] = (probs.to(embeddings.dtype) @ embeddings).float()
    hidden = backbone.denoise(model.backbone, canvas, soft, cache)
    logits = backbone.softcapped_logits(model.backbone, hidden)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    position = torch.arange(targets.shape[1], device=device)[None]
    noisy_text = (t > 0.9)[:, None].to(device) & (position < lengths[:, None])
    noisy = losses[noisy_text].detach().mean()
    if taught:
        teacher, prompts = taught
        losses = teacher.blend(losses, logits, (canvas, soft, prompts), (targets, position <= lengths[:, None]))
    weights = torch.where(position <= lengths[:, None], 1.0, knobs.eos_weight)
    if knobs.corrupted_only:
        weights = weights * (canvas != targets)
    return (losses * weights).sum() / weights.sum().clamp_min(1.0), noisy
