"""The CTC head: tiles give what dense logits give, and alignment and score are those of all possible paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.denoise.ctc import SlotScores, align, greedy, hypothesis, score_slots


def scores(slots: int, classes: int, seed: int) -> np.ndarray:
    """Random log-probabilities [slots, classes]."""
    logits = torch.randn(slots, classes, generator=torch.Generator().manual_seed(seed)) * 2
    return logits.log_softmax(-1).numpy()


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token]


def paths(log_probs: np.ndarray, targets: list[int]) -> list[tuple[float, tuple[int, ...]]]:
    """Every path that spells the targets, with its log-probability."""
    slots, classes = log_probs.shape
    spelled = (path for path in itertools.product(range(classes), repeat=slots) if collapsed(path) == targets)
    return [(float(sum(log_probs[i, token] for i, token in enumerate(path))), path) for path in spelled]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 6), st.lists(st.integers(1, 2), min_size=1, max_size=4), st.integers(0, 1000))
def test_the_alignment_is_the_best_of_all_paths(slots: int, targets: list[int], seed: int) -> None:
    log_probs = scores(slots, 3, seed)
    everything = paths(log_probs, targets)
    spans = align(log_probs, targets)
    if not everything:
        assert spans is None
        return
    assert spans is not None
    best = max(everything)[1]
    walked = [0] * slots
    for target, (first, last) in zip(targets, spans, strict=True):
        walked[first : last + 1] = [target] * (last - first + 1)
    assert tuple(walked) == best
    assert all(0 <= first <= last < slots for first, last in spans)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(spans))


@pytest.mark.parametrize("targets", [[4, 5], [4, 4], [5], [4, 5, 4]])
def test_the_score_is_the_sum_of_all_paths_per_token(targets: list[int]) -> None:
    generator = torch.Generator().manual_seed(3)
    vectors, weight = torch.randn(5, 8, generator=generator), torch.randn(6, 8, generator=generator)
    best, mass = score_slots(vectors, weight)
    heard = hypothesis(SlotScores(vectors, best, mass), weight, targets, "", blank=0)
    dense = (vectors @ weight.T).log_softmax(-1).numpy()
    expected = float(np.logaddexp.reduce([score for score, _ in paths(dense, targets)])) / len(targets)
    assert heard.score == pytest.approx(expected, abs=1e-4)
    assert heard.spans is not None
    assert len(heard.spans) == len(targets)


@pytest.mark.parametrize("vocabulary", [1, 255, 256, 257, 3000])
def test_tiles_give_what_dense_logits_give(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, weight = torch.randn(40, 16, generator=generator), torch.randn(vocabulary, 16, generator=generator)
    best, mass = score_slots(vectors, weight)
    dense = vectors @ weight.T
    assert torch.equal(best, dense.argmax(1))
    torch.testing.assert_close(mass, dense.logsumexp(1))


def test_greedy_text_has_no_blanks_and_no_immediate_repetitions() -> None:
    best = torch.tensor([0, 7, 7, 0, 7, 9, 9, 0])
    slots = SlotScores(torch.zeros(8, 4), best, torch.zeros(8))
    assert greedy(slots, blank=0) == [7, 7, 9]
    heard = hypothesis(slots, torch.zeros(10, 4), [], "own", blank=0)
    assert heard.text == "own"
    assert (heard.score, heard.spans) == (None, None)


def test_a_text_with_more_tokens_than_slots_has_no_times_and_no_score() -> None:
    vectors, weight = torch.randn(2, 4), torch.randn(6, 4)
    slots = SlotScores(vectors, *score_slots(vectors, weight))
    for tokens in ([1, 2, 3], [1, 1]):  # the second needs a blank between
        heard = hypothesis(slots, weight, tokens, "", blank=0)
        assert (heard.score, heard.spans) == (None, None)
