"""The time left and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.output.pace import Left, Pace


def test_a_steady_speed_has_a_narrow_interval_and_an_unsteady_one_a_wide_one() -> None:
    steady, unsteady = Pace(1000), Pace(1000)
    for second in range(60):
        steady.add(second + 0.5, 5)
        unsteady.add(second + 0.5, 60 if second % 12 == 0 else 0)
    assert steady.left(60) == Left(140, 140, 140)
    left = unsteady.left(60)
    assert left
    assert left.seconds == pytest.approx(140)
    assert left.low
    assert left.high
    assert left.low < 125 < 160 < left.high


def test_with_little_done_there_is_no_interval_and_with_nothing_no_time() -> None:
    pace = Pace(100)
    assert pace.left(10) is None
    pace.add(10, 10)
    assert pace.left(10) == Left(90)
    pace.add(60, 90)
    assert pace.left(60) == Left(0)


def test_the_interval_contains_the_time_that_it_takes_nine_times_in_ten() -> None:
    """Runs of 600 units whose times are exponential, asked when a third is done."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        ends = np.cumsum(rng.exponential(1.0, 600))
        pace = Pace(600)
        for end in ends[:200]:
            pace.add(end, 1)
        left = pace.left(ends[199])
        assert left
        assert left.low
        assert left.high
        hits.append(left.low <= ends[-1] - ends[199] <= left.high)
    assert 0.85 <= np.mean(hits) <= 0.97
