"""Tests of the bootstrap: false alarms and coverage as stated, the normal interval where blocks are many, seeded."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.bootstrap import block_sums, interval, language_seed, paired
from pipeline.evaluation.significance import holm
from tests.support.error_processes import RATE, beta_binomial


def names(number: int) -> list[str]:
    return [f"speaker {place:04d}" for place in range(number)]


@pytest.mark.parametrize(
    ("speakers", "words", "repetitions"),  # 10,000: +- 0.22 points at 5 %; 5,000: +- 0.31
    [(2, 1_200, 10_000), (10, 600, 5_000), (40, 1_300, 5_000), (100, 20, 5_000)],
)
def test_a_system_that_is_no_worse_alarms_in_five_percent(speakers: int, words: int, repetitions: int) -> None:
    errors = beta_binomial(repetitions, speakers, words, seed=speakers)
    found = [
        paired(*errors.one(place), names(speakers), resamples=1_000, seed=place)  # type: ignore[arg-type]
        for place in range(repetitions)
    ]
    alarms = np.array([one.p < 0.05 and one.low > 0 for one in found])
    assert 0.04 <= alarms.mean() <= 0.06
    assert 0.04 <= np.mean([one.high < 0 for one in found]) <= 0.06  # nor is it called better without being it
    assert all(one.low > 0 for one in found if one.p < 0.05)
    families = np.array([one.p for one in found])[: repetitions // 3 * 3].reshape(-1, 3)  # three languages
    assert (
        0.035 <= np.mean([min(holm(family.tolist())) < 0.05 for family in families]) <= 0.065
    )  # +- 0.53 points for 5,000


def test_utterances_taken_for_independent_would_alarm_more_than_twice_as_often() -> None:
    """What blocks are for. 10 speakers of 65 utterances of 20 words, as those of LibriSpeech's test-clean."""
    errors = beta_binomial(500, 10, 1_300, seed=3)
    random = np.random.default_rng(4)
    alarms = 0
    for place in range(500):
        new, old, words = errors.one(place)
        right = words - np.maximum(new, old)
        parts = [random.multinomial(of, [1 / 65] * 65).ravel() for of in (new, old, right)]
        units = parts[2] + np.maximum(parts[0], parts[1]) + 1
        alarms += paired(*parts[:2], units, names(len(units)), resamples=200, seed=place).p < 0.05
    assert alarms / 500 > 0.10


@pytest.mark.parametrize("speakers", [5, 20])
def test_the_interval_of_a_rate_contains_the_truth_as_often_as_it_says(speakers: int) -> None:
    errors = beta_binomial(1_500, speakers, 1_000, seed=speakers + 1)
    contained = 0
    for place in range(1_500):
        new, _, words = errors.one(place)
        low, high = interval(new, words, names(speakers), resamples=1_000, seed=place)
        assert low is not None
        assert high is not None
        contained += low <= RATE <= high
    assert 0.92 <= contained / 1_500 <= 0.97


def test_with_many_blocks_it_is_the_plain_bootstrap_and_the_normal_interval() -> None:
    random = np.random.default_rng(5)
    words = random.integers(5, 40, 1_000)
    new, old = random.binomial(words, 0.12), random.binomial(words, 0.10)

    def difference(new: np.ndarray, old: np.ndarray, words: np.ndarray, axis: int = -1) -> np.ndarray:
        return (new.sum(axis) - old.sum(axis)) / words.sum(axis)

    reference = stats.bootstrap(
        (new, old, words), difference, paired=True, confidence_level=0.9, n_resamples=5_000, method="percentile", rng=6
    ).confidence_interval
    found = paired(new, old, words, names(1_000), resamples=5_000, seed=7)
    width = reference.high - reference.low
    assert found.difference == pytest.approx((new.sum() - old.sum()) / words.sum())
    assert found.low == pytest.approx(reference.low, abs=0.04 * width)  # both are drawn: +- 1.5 % of the width
    assert found.high == pytest.approx(reference.high, abs=0.04 * width)
    error = np.std(new - old - found.difference * words, ddof=1) * 1_000**0.5 / words.sum()
    assert found.low == pytest.approx(found.difference - 1.645 * error, abs=0.04 * width)
    assert found.high == pytest.approx(found.difference + 1.645 * error, abs=0.04 * width)
    rate = stats.bootstrap(
        (new, words), lambda n, w, axis=-1: n.sum(axis) / w.sum(axis), paired=True, n_resamples=5_000, rng=8
    ).confidence_interval
    low, high = interval(new, words, names(1_000), resamples=5_000, seed=9)
    assert low == pytest.approx(rate.low, abs=0.05 * (rate.high - rate.low))
    assert high == pytest.approx(rate.high, abs=0.05 * (rate.high - rate.low))


def test_the_order_of_recordings_changes_nothing_and_the_seed_does() -> None:
    random = np.random.default_rng(10)
    words = random.integers(5, 40, 200)
    new, old = random.binomial(words, 0.12), random.binomial(words, 0.10)
    blocks = np.array([f"s{place}" for place in random.integers(0, 25, 200)], dtype=object)
    order = random.permutation(200)
    first = paired(new, old, words, blocks.tolist(), resamples=300, seed=1)
    assert paired(new[order], old[order], words[order], blocks[order].tolist(), resamples=300, seed=1) == first
    assert paired(new, old, words, blocks.tolist(), resamples=300, seed=2) != first
    assert interval(new, words, blocks.tolist(), resamples=300, seed=1) == interval(
        new[order], words[order], blocks[order].tolist(), resamples=300, seed=1
    )


def test_draws_in_several_chunks_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(11)
    words = random.integers(5, 40, 60)
    new, old = random.binomial(words, 0.12), random.binomial(words, 0.10)
    whole = paired(new, old, words, names(60), resamples=5_000, seed=1)
    monkeypatch.setattr("pipeline.evaluation.bootstrap.CHUNK", 60 * 7)
    chunked = paired(new, old, words, names(60), resamples=5_000, seed=1)
    assert chunked.difference == whole.difference
    assert chunked.low == pytest.approx(whole.low, abs=0.05 * (whole.high - whole.low))
    assert chunked.p == pytest.approx(whole.p, abs=0.03)


def test_every_language_has_a_seed_of_its_own() -> None:
    assert len({language_seed(seed, language) for seed in (0, 1) for language in ("en", "de", "zh")}) == 6
    assert language_seed(0, "en") == language_seed(0, "en")


def test_equal_systems_do_not_differ_at_all() -> None:
    same = paired([1, 2, 0], [1, 2, 0], [10, 10, 10], ["a", "b", "c"], resamples=200, seed=0)
    assert (same.difference, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_same_loss_in_every_block_is_certain() -> None:
    lost = paired([10, 20, 30], [0, 0, 0], [10, 20, 30], ["a", "b", "c"], resamples=999, seed=0)
    assert (lost.difference, lost.low, lost.high) == (1.0, 1.0, 1.0)
    assert lost.p == pytest.approx(0.001)


def test_a_rate_is_never_below_zero() -> None:
    low, high = interval([0, 0, 0, 5], [10, 10, 10, 10], ["a", "b", "c", "d"], resamples=500, seed=0)
    assert low == 0.0
    assert high is not None
    assert high > 0.125
    assert interval([0, 0], [10, 10], ["a", "b"], resamples=500, seed=0) == (0.0, 0.0)


def test_one_block_has_no_interval() -> None:
    assert interval([1, 2], [10, 10], ["a", "a"], resamples=100, seed=0) == (None, None)
    with pytest.raises(ValueError, match="single block"):
        paired([1, 2], [1, 1], [10, 10], ["a", "a"], resamples=100, seed=0)


@pytest.mark.parametrize(("units", "blocks"), [([], []), ([10, 0], ["a", "b"])])
def test_blocks_without_units_have_no_rate(units: list[int], blocks: list[str]) -> None:
    with pytest.raises(ValueError, match="without units"):
        interval([0] * len(units), units, blocks, resamples=100, seed=0)


def test_blocks_are_summed_by_hand() -> None:
    errors, units = block_sums(["b", "a", "b"], [1, 2, 3], [10, 20, 30])
    assert errors.tolist() == [2, 4]
    assert units.tolist() == [20, 40]
