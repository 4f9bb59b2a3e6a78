"""ECE and AUROC against values computed by hand, and against all pairs of right and wrong words."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.confidence import auroc, ece


def test_ece_is_the_mean_distance_of_confidence_and_accuracy_by_words() -> None:
    # bins of a half: below, 0.2 and 0.4 (mean 0.3) with 1 of 2 right; above, 0.9, 0.9 and 0.6 (mean 0.8) with 1 of 3
    assert ece([0.2, 0.9, 0.4, 0.9, 0.6], [1, 1, 0, 0, 0], bins=2) == pytest.approx(0.4 * 0.2 + 0.6 * (0.8 - 1 / 3))


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    assert ece([1.0, 1.0], [1, 1]) == 0
    assert ece([1.0, 1.0], [0, 0]) == 1


def test_a_confidence_on_a_border_belongs_to_the_bin_above_it() -> None:
    assert ece([0.4, 0.5], [0, 1], bins=2) == pytest.approx(0.5 * 0.4 + 0.5 * 0.5)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    sure, right = random.integers(0, 6, 60) / 5, random.random(60) < 0.6  # with many ties
    pairs = [(a > b) + (a == b) / 2 for a in sure[right] for b in sure[~right]]
    assert auroc(sure, right) == pytest.approx(sum(pairs) / len(pairs))


def test_auroc_of_perfect_and_reversed_order() -> None:
    assert auroc([0.1, 0.2, 0.8], [0, 0, 1]) == 1
    assert auroc([0.1, 0.2, 0.8], [1, 1, 0]) == 0


def test_what_cannot_be_said_is_none() -> None:
    assert ece([], []) is None
    assert auroc([], []) is None
    assert auroc([0.3, 0.4], [1, 1]) is None
    assert auroc([0.3, 0.4], [0, 0]) is None
