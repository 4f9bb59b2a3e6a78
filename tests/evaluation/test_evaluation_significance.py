"""Tests of significance: matched pairs as scipy has them, Holm's published results, the power that is stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation.bootstrap import paired
from pipeline.evaluation.significance import detectable, holm, mapsswe
from tests.support.error_processes import Errors, beta_binomial


@pytest.mark.parametrize("worse", [0.0, 0.01, -0.03])
def test_matched_pairs_are_the_paired_test_of_scipy_under_a_normal_distribution(worse: float) -> None:
    random = np.random.default_rng(1)
    words = random.integers(5, 40, 400)
    old, new = random.binomial(words, 0.1), random.binomial(words, 0.1 + worse)
    reference = stats.ttest_rel(new, old)
    assert mapsswe(new, old) == pytest.approx(2 * stats.norm.sf(abs(reference.statistic)))
    assert mapsswe(new, old) == pytest.approx(reference.pvalue, rel=0.1, abs=1e-3)  # Student's t with 399 degrees
    assert mapsswe(new, old) == mapsswe(old, new)


def test_matched_pairs_by_hand() -> None:
    assert mapsswe([3, 1, 2, 0], [1, 0, 2, 1]) == pytest.approx(0.43858, abs=1e-5)  # Z = 0.5 / 1.29099 * 2 = 0.7746


@pytest.mark.parametrize(("new", "old"), [([], []), ([3], [1]), ([1, 2], [1, 2]), ([2, 3], [1, 2])])
def test_matched_pairs_without_a_spread_are_undefined(new: list[int], old: list[int]) -> None:
    assert mapsswe(new, old) is None


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),  # p.adjust of R
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.9, 0.6], [1.0, 1.0]),
        ([0.3], [0.3]),
        ([], []),
    ],
)
def test_holm_gives_known_results(p: list[float], expected: list[float]) -> None:
    assert holm(p) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_no_correction_and_that_of_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for before, after in zip(p, adjusted, strict=True):
        assert before <= after <= min(1.0, len(p) * before)
    order = sorted(range(len(p)), key=p.__getitem__)
    assert [adjusted[place] for place in order] == sorted(adjusted)


def test_the_smallest_difference_by_hand() -> None:
    # differences 2, 0, 1, 1 of 10 words each: rate 0.1, squares 1 + 1, error sqrt(2 * 4 / 3) / 40 = 0.04082
    found = detectable([2, 0, 1, 1], [0, 0, 0, 0], [10] * 4, ["a", "b", "c", "d"], alpha=0.05)
    student = 2.353363  # of a table: 3 degrees of freedom, 5 % above
    assert found == pytest.approx((student + 0.84162) * (0.0408248**2 + found / 40) ** 0.5, rel=1e-4)


def test_equal_systems_do_not_make_every_loss_detectable() -> None:
    blocks = [f"{place}" for place in range(1_000)]  # 10,000 words: one needs (1.645 + 0.842) ** 2 = 6.2 errors more
    found = detectable([1] * 1_000, [1] * 1_000, [10] * 1_000, blocks, alpha=0.05)
    assert found == pytest.approx(6.2 / 10_000, rel=0.01)


@pytest.mark.parametrize(("speakers", "words"), [(20, 1_200), (40, 1_300), (100, 20)])
def test_the_stated_difference_is_detected_in_four_of_five_cases(speakers: int, words: int) -> None:
    stated = mean_detectable(speakers, words)
    assert 0.75 <= share_detected(beta_binomial(1_500, speakers, words, lost=stated, seed=speakers + 1)) <= 0.85


def test_a_loss_that_makes_speakers_differ_more_is_detected_somewhat_less_often() -> None:
    """The spread is assumed to stay as observed; this loss widens it."""
    stated = mean_detectable(20, 1_200)
    assert 0.65 <= share_detected(beta_binomial(1_500, 20, 1_200, harder=stated, seed=21)) <= 0.8


def mean_detectable(speakers: int, words: int) -> float:
    errors = beta_binomial(300, speakers, words, seed=speakers)
    return float(np.mean([detectable(*errors.one(place), names(speakers), alpha=0.05) for place in range(300)]))


def share_detected(errors: Errors) -> float:
    repetitions, speakers = errors.new.shape
    found = [paired(*errors.one(place), names(speakers), resamples=1_000, seed=place) for place in range(repetitions)]
    return float(np.mean([one.p < 0.05 and one.low > 0 for one in found]))


def names(number: int) -> list[str]:
    return [f"speaker {place:04d}" for place in range(number)]
