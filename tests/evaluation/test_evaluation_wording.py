"""wording: figures and times in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pipeline.evaluation.wording import (
    comparison_line,
    finding,
    interval,
    percent,
    points,
    probability,
    shortened,
    utc,
)
from tests.support.evaluated import comparison


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (percent(0.05042), "5.04 %"),
        (percent(1.5), "150.00 %"),
        (percent(None), "–"),
        (interval(0.0471, 0.0538), "[4.71, 5.38]"),
        (interval(None, 0.1), "–"),
        (points(0.0036), "+0.36"),
        (points(-0.012), "-1.20"),
        (probability(0.0004), "<0.001"),
        (probability(0.0123), "0.012"),
        (probability(None), "–"),
    ],
)
def test_figures(said: str, expected: str) -> None:
    assert said == expected


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 25, 3, 0, tzinfo=UTC),
        datetime(2026, 11, 25, 3, 0),
        datetime(2026, 11, 24, 19, 0, tzinfo=timezone(timedelta(hours=-8))),
    ],
)
def test_times_are_in_utc(moment: datetime) -> None:
    assert utc(moment) == "2026-11-25 03:00 UTC"


@pytest.mark.parametrize(
    ("difference", "regressed", "expected"),
    [(0.02, True, "regressed"), (-0.02, False, "improved"), (0.002, False, "no difference shown")],
)
def test_what_a_comparison_shows(difference: float, regressed: bool, expected: str) -> None:
    assert finding(comparison("de", difference, regressed=regressed)) == expected


def test_a_comparison_names_the_smallest_difference_it_would_have_seen() -> None:
    line = comparison_line(comparison("zh", 0.02, regressed=True), "release-3")
    assert line == (
        "zh: CER 16.00 %, release-3 14.00 %: +2.00 points [+1.20, +2.80], p 0.004, Holm 0.016; regressed "
        "(80 % power from 1.15 points on)"
    )


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [([], []), (["a", "b", "c"], ["a", "b", "c"]), (list("abcd"), ["a", "b", "and 2 more"])],
)
def test_at_most_three_lines_and_the_last_counts_the_rest(reasons: list[Any], expected: list[str]) -> None:
    assert shortened(reasons) == expected
