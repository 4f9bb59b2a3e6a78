"""Temperature, acceptance and stopping: checked by hand, then against transformers' own classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.models.diffusion_gemma import generation_diffusion_gemma as stock

from pipeline.model.denoise import sampler


def stops(
    unchanged: list[int], entropy: list[list[float]], step: list[int], *, stability: int, early: bool
) -> list[bool]:
    ends = sampler.stops(
        torch.tensor(unchanged),
        torch.tensor(entropy),
        torch.tensor(step),
        stability=stability,
        threshold=0.1,
        max_steps=8,
        early=early,
    )
    return ends.tolist()


def test_temperature_falls_linearly_and_per_row() -> None:
    t = sampler.temperature(torch.tensor([0, 1, 2, 3]), max_steps=4, minimum=0.4, maximum=0.8)
    torch.testing.assert_close(t, torch.tensor([0.8, 0.7, 0.6, 0.5]))


@pytest.mark.parametrize("max_steps", [1, 7, 16, 48])
def test_temperature_is_transformers_schedule(max_steps: int) -> None:
    schedule = stock.LinearTemperatureScheduleLogitsProcessor(0.4, 0.8, max_steps)
    ours = sampler.temperature(torch.arange(max_steps), max_steps=max_steps, minimum=0.4, maximum=0.8)
    one = torch.ones(1)
    for done in range(max_steps):
        theirs = schedule(torch.LongTensor([0]), one, cur_step=max_steps - done)  # it counts down
        torch.testing.assert_close(1 / ours[done : done + 1], theirs)


def test_acceptance_by_hand() -> None:
    entropy = torch.tensor(
        [
            [0.30, 0.05, 0.02, 0.06],  # sums before, in order of entropy: 0, .02, .07, .13
            [2.00, 3.00, 1.00, 4.00],  # the lowest alone
            [0.00, 0.00, 0.00, 0.00],  # all
            [0.04, 0.04, 0.04, 0.04],  # sums before: 0, .04, .08, .12; ties in order of position
        ]
    )
    accepted = sampler.accept(entropy, 0.1)
    assert accepted.int().tolist() == [[0, 1, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    each = sampler.accept(entropy, 0.1, "each")
    assert each.int().tolist() == [[0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 4),
    length=st.integers(1, 20),
    bound=st.floats(1e-3, 20),
    sharp=st.floats(0.1, 10),
)
def test_acceptance_equals_transformers_sampler(seed: int, rows: int, length: int, bound: float, sharp: float) -> None:
    logits = torch.randn(rows, length, 50, generator=torch.Generator().manual_seed(seed)) * sharp
    theirs = stock.EntropyBoundSampler(stock.EntropyBoundSamplerConfig(bound), length, 50, 8)
    canvas: Any = torch.zeros(rows, length, dtype=torch.int64)
    theirs.accept_canvas(canvas, canvas + 1, logits, cur_step=1)
    mask: Any = theirs.accepted_token_mask
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assume(all(len(set(row)) == len(row) for row in entropy.tolist()))  # among equals theirs takes any, ours the first
    ours = sampler.accept(entropy, bound)
    assert torch.equal(ours, mask)
    assert bool(ours.any(-1).all())  # every step makes progress


def test_a_row_of_nan_entropies_leaves_other_rows_alone() -> None:
    entropy = torch.tensor([[0.2, 5.0], [torch.nan, torch.nan]])
    assert sampler.accept(entropy, 0.1)[0].tolist() == [True, False]


def test_stopping_by_hand() -> None:
    low, high = [0.05, 0.07], [0.05, 0.16]  # means 0.06 and 0.105 around the threshold 0.1
    assert stops([1, 1, 0, 5], [low, high, low, low], [3, 3, 3, 3], stability=1, early=True) == [
        True,
        False,
        False,
        True,
    ]
    assert stops([1, 2, 3], [low] * 3, [3, 3, 3], stability=2, early=True) == [False, True, True]
    assert stops([0, 0], [low, high], [0, 0], stability=0, early=True) == [True, False]  # stability is not asked for


def test_the_last_step_ends_a_row_whatever_it_says() -> None:
    high = [5.0, 5.0]
    assert stops([0, 0, 0], [high] * 3, [6, 7, 8], stability=1, early=True) == [False, True, True]


def test_without_early_stop_only_the_last_step_ends_a_row() -> None:
    assert stops([9, 9], [[0.0], [0.0]], [3, 7], stability=1, early=False) == [False, True]


@pytest.mark.parametrize("stability", [0, 1, 2, 3])
def test_stopping_equals_transformers_criterion(stability: int) -> None:
    """For canvases that repeat and change, with low and high entropies."""
    generator = torch.Generator().manual_seed(stability)
    theirs = stock.StableAndConfidentStoppingCriteria(stability, 0.1)
    previous, unchanged = torch.full((6, 4), -1), torch.zeros(6, dtype=torch.int32)
    seen: set[bool] = set()
    for step in range(40):
        argmax: Any = torch.randint(2, (6, 1), generator=generator).expand(6, 4)
        logits = torch.nn.functional.one_hot(argmax, 2) * (30.0 * torch.rand(6, 1, 1, generator=generator))
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        unchanged = torch.where((argmax != previous).any(-1), 0, unchanged + 1)
        previous = argmax
        ours = sampler.stops(
            unchanged, entropy, torch.full((6,), step), stability=stability, threshold=0.1, max_steps=1000, early=True
        )
        assert torch.equal(ours, theirs(argmax, logits))
        seen |= set(ours.tolist())
    assert seen == {True, False}
