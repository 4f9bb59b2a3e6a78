"""The most probable text of each segment of a batch: greedy, with beams, or drawn at a temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.model.whisper.decoder import Caches, Decoder


@dataclass(slots=True)
class Hypothesis:
    """A text, token by token. The last token is an end token, unless the limit stopped it."""

    tokens: list[int] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)  # of the token at T = 1, among the allowed ones
    entropy: list[float] = field(default_factory=list)  # of the same distribution, in nats
    score: float = 0.0  # sum of the log-probabilities

    def grown(self, token: int, probability: float, entropy: float, score: float) -> Hypothesis:
        """This text with one more token."""
        return Hypothesis([*self.tokens, token], [*self.probability, probability], [*self.entropy, entropy], score)

    @property
    def log_probability(self) -> float:
        """Mean over the tokens, the end token among them."""
        return self.score / max(1, len(self.tokens))


@dataclass(slots=True)
class _Row:
    """A segment of the batch. parents: of its texts, among those of the step before. A row that is done waits."""

    number: int
    beams: list[Hypothesis]
    parents: list[int]
    ended: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    @property
    def best(self) -> Hypothesis:
        return max(self.ended or self.beams, key=lambda one: one.log_probability)

    def grow(self, candidates: list[tuple[int, int, float, float, float]], rules: Rules) -> None:
        """The best candidates become the texts. Each: (parent, token, score, probability, entropy), best first."""
        width = len(self.beams)
        beams, parents = [], []
        for parent, token, score, probability, entropy in candidates:
            grown = self.beams[parent].grown(token, probability, entropy, score)
            if token in rules.ends:
                self.ended.append(grown)
            else:
                beams.append(grown)
                parents.append(parent)
            if len(beams) == width:
                break
        is_finite = not any(math.isnan(score) for _, _, score, _, _ in candidates)
        if beams:
            missing = width - len(beams)
            self.beams, self.parents = beams + beams[-1:] * missing, parents + parents[-1:] * missing
        limited = len(self.beams[0].tokens) >= rules.limit
        self.done = not is_finite or not beams or len(self.ended) >= width or limited


@dataclass(frozen=True, slots=True)
class Rules:
    """ends: the end tokens. limit: of tokens. forbidden: float32 [V], minus infinity or 0; `at_first`: of the first."""

    ends: frozenset[int]
    limit: int
    forbidden: Tensor
    at_first: Tensor


def best_texts(
    decoder: Decoder,
    caches: Caches,
    logits_BV: Tensor,
    rules: Rules,
    *,
    width: int,
    temperature: float = 0.0,
    seeds: list[int] | None = None,
) -> list[Hypothesis]:
    """The best text of each segment.

    A beam search keeps the `width` best texts of each segment, and ends when as many have ended; the best has the
    highest mean log-probability. Width 1 is greedy. Source: openai/whisper, decoding.py, with patience 1.

    Args:
        decoder: of the model.
        caches: behind the prompt, for `width` hypotheses of each segment. Used up.
        logits_BV: behind the prompt.
        rules: what may come.
        width: of the beam; 1 with a temperature.
        temperature: 0: the most probable; else the text is drawn at this temperature.
        seeds: of each segment, for its draws.
    """
    rows = [_Row(number, [Hypothesis()] * width, list(range(width))) for number in range(len(logits_BV))]
    best: list[Hypothesis] = [Hypothesis()] * len(rows)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds] if seeds and temperature else []
    logits = (logits_BV + rules.at_first).repeat_interleave(width, dim=0)
    while True:
        logp_BWV = (logits + rules.forbidden).log_softmax(dim=-1).view(len(rows), width, -1)
        noise = torch.stack([_gumbel(logp_BWV, draws[row.number]) for row in rows]) if draws else None
        for row, candidates in zip(rows, _candidates(rows, logp_BWV, temperature, noise), strict=True):
            if not row.done:
                row.grow(candidates, rules)
                best[row.number] = row.best
        going = [place for place, row in enumerate(rows) if not row.done]
        if not going:
            return best
        if width > 1:
            caches.reorder([place * width + parent for place, row in enumerate(rows) for parent in row.parents])
        if 2 * len(going) <= len(rows):
            rows, caches = [rows[place] for place in going], caches.keep(going)
        last = [(beam.tokens or [0])[-1] for row in rows for beam in row.beams]
        logits = decoder.logits(caches, [[token] for token in last])


def _candidates(
    rows: list[_Row], logp_BWV: Tensor, temperature: float, noise_BV: Tensor | None
) -> list[list[tuple[int, int, float, float, float]]]:
    """For each row the best continuations of its texts, as `_Row.grow` takes them."""
    _, width, vocabulary = logp_BWV.shape
    scores = torch.tensor([[beam.score for beam in row.beams] for row in rows], device=logp_BWV.device)
    if not any(beam.tokens for row in rows for beam in row.beams):
        scores[:, 1:] = -torch.inf  # all texts are still the same one
    total = (scores[:, :, None] + logp_BWV).flatten(1)
    wanted = total if noise_BV is None else logp_BWV[:, 0] / temperature + noise_BV
    chosen = wanted.topk(2 * width if width > 1 else 1, dim=-1).indices
    parents, tokens = chosen // vocabulary, chosen % vocabulary
    entropy_BW = torch.special.entr(logp_BWV.exp()).sum(dim=-1)
    columns = (
        parents.tolist(),
        tokens.tolist(),
        total.gather(1, chosen).tolist(),
        logp_BWV.flatten(1).gather(1, chosen).exp().tolist(),
        entropy_BW.gather(1, parents).tolist(),
    )
    return [list(zip(*of_row, strict=True)) for of_row in zip(*columns, strict=True)]


def _gumbel(like: Tensor, draw: torch.Generator) -> Tensor:
    """Noise [V] with which the highest sum is a draw from the distribution."""
    uniform = torch.rand(like.shape[-1], generator=draw).clamp_(min=1e-20)
    return -(-uniform.log()).log().to(like.device)
