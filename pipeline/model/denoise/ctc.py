"""The CTC head: what the audio slots say by themselves of a text, and when its tokens were spoken.

The logits are audio vectors through the lm_head, without softcap (arXiv 2607.13013). They exist for one vocabulary tile
at a time; only the best token and the log-sum-exp of each slot are kept. The logits of a text's own tokens are computed
again when the text is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model.denoise.vocabulary_head import default_tile


@dataclass(frozen=True, slots=True)
class SlotScores:
    """The audio slots of one segment, those with sound only."""

    vectors: Tensor  # [slots, hidden], the projector's output
    best: Tensor  # int64 [slots], the token with the highest logit
    mass: Tensor  # float32 [slots], log-sum-exp of the logits


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What CTC says of one segment and of the text that denoising found."""

    text: str  # its own, of the tokens of `greedy`
    score: float | None  # log-probability of the text per token, nats; None: no text, or more tokens than slots
    spans: list[tuple[int, int]] | None  # for each token of the text its first and its last slot; None as for `score`
    token_scores: list[float] | None = None  # log-probability of each token at the best of its slots, nats


@torch.inference_mode()
def score_slots(vectors_NH: Tensor, weight_VH: Tensor) -> tuple[Tensor, Tensor]:
    """The best token, int64 [N], and the log-sum-exp of the logits, float32 [N], in one pass over vocabulary tiles."""
    n = len(vectors_NH)
    best = torch.zeros(n, dtype=torch.int64, device=vectors_NH.device)
    top, total = torch.full((n,), -torch.inf, device=vectors_NH.device), torch.zeros(n, device=vectors_NH.device)
    offset = 0
    for weight in weight_VH.split(default_tile(n, vectors_NH.device)):
        logits = (vectors_NH @ weight.T).float()
        tile_top, tile_best = logits.max(1)
        best = torch.where(tile_top > top, tile_best + offset, best)
        higher = torch.maximum(top, tile_top)
        total = total * (top - higher).exp() + logits.sub_(higher[:, None]).exp_().sum(1)
        top = higher
        offset += len(weight)
    return best, top + total.log()


def greedy(slots: SlotScores, *, blank: int) -> list[int]:
    """The best token of each slot, without blanks and immediate repetitions."""
    return [token for token, _ in groupby(slots.best.tolist()) if token != blank]


@torch.inference_mode()
def hypothesis(slots: SlotScores, weight_VH: Tensor, tokens: list[int], own: str, *, blank: int) -> Hypothesis:
    """Compare a text with the slots. tokens: of the text, without end tokens. own: CTC's own text."""
    if not tokens or blank in tokens:
        return Hypothesis(own, None, None)
    classes = {token: index for index, token in enumerate(dict.fromkeys([blank, *tokens]))}
    rows = weight_VH[torch.tensor(list(classes), device=weight_VH.device)]
    log_probs = ((slots.vectors @ rows.T).float() - slots.mass[:, None]).cpu()
    targets = [classes[token] for token in tokens]
    spans = align(log_probs.numpy(), targets)
    if spans is None:
        return Hypothesis(own, None, None)
    loss = F.ctc_loss(
        log_probs[:, None], torch.tensor([targets]), torch.tensor([len(log_probs)]), torch.tensor([len(targets)]),
        reduction="sum",
    )  # fmt: skip
    scores = log_probs.numpy()
    token_scores = [float(scores[a : b + 1, k].max()) for (a, b), k in zip(spans, targets, strict=True)]
    return Hypothesis(own, -float(loss) / len(tokens), spans, token_scores)


def align(log_probs: np.ndarray, targets: list[int]) -> list[tuple[int, int]] | None:
    """The most probable CTC alignment: the first and the last slot of each target.

    log_probs: float32 [slots, classes]; class 0 is the blank. Spans are in order and share no slot. None where there
    are fewer slots than targets and blanks between equal neighbours.
    """
    states = np.zeros(2 * len(targets) + 1, np.int64)  # blank, target, blank, target, ..., blank
    states[1::2] = targets
    repeats = sum(one == other for one, other in pairwise(targets))
    if len(log_probs) < len(targets) + repeats:
        return None
    emitted = log_probs[:, states]
    skip = np.full(len(states), -np.inf, np.float32)  # from one target to the next, without the blank between
    skip[3::2] = np.where(states[3::2] == states[1:-2:2], -np.inf, 0.0)
    scores = np.full((len(log_probs), 2 + len(states)), -np.inf, np.float32)  # two states that no path reaches in front
    scores[0, 2:4] = emitted[0, :2]
    best, skipped = np.empty_like(skip), np.empty_like(skip)
    for before, after, now in zip(scores, scores[1:], emitted[1:], strict=False):
        np.maximum(before[2:], before[1:-1], out=best)
        np.add(before[:-2], skip, out=skipped)
        np.maximum(best, skipped, out=best)
        np.add(best, now, out=after[2:])
    return _spans(scores, skip.tolist(), len(targets))


def _spans(scores: np.ndarray, skip: list[float], targets: int) -> list[tuple[int, int]]:
    """Walk the best path back from the last slot. scores: [slots, 2 + states] of `align`."""
    state = len(skip) - 1 if scores[-1, -1] >= scores[-1, -2] else len(skip) - 2
    first, last = [0] * targets, [-1] * targets
    for slot in range(len(scores) - 1, -1, -1):
        if state % 2:
            target = state // 2
            first[target] = slot
            last[target] = max(last[target], slot)
        if slot:
            skipped, step, stay = scores[slot - 1, state : state + 3].tolist()
            skipped += skip[state]
            back = 1 if step > stay else 0
            state -= 2 if skipped > max(step, stay) else back
    return list(zip(first, last, strict=True))
