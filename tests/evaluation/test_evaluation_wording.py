"""wording: figures as people write them, sentences, and the lines for the terminal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from rich.cells import cell_len

from pipeline.evaluation.result import Verdict
from pipeline.evaluation.wording import (
    comparison_line,
    finding,
    interval,
    percent,
    points,
    probability,
    shortened,
    summary_lines,
    utc,
)
from tests.support.evaluated import comparison, made_up_evaluation, made_up_rows


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


def test_a_comparison_names_the_smallest_difference_it_could_have_shown() -> None:
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


NIGHT = made_up_evaluation(made_up_rows())


def test_rates_stand_with_interval_and_coverage_in_columns_of_one_width() -> None:
    lines = summary_lines(NIGHT)
    header, table = lines[0], lines[1 : lines.index("")]
    assert header.split() == ["metric", "rate", "95", "%", "interval", "sub", "del", "ins", "recordings", "coverage"]
    assert {cell_len(line) for line in [header, *table]} == {cell_len(header)}
    english = next(line for line in table if line.startswith("set  test-clean en"))
    rates = next(one for one in NIGHT.rates if (one.group, one.key) == ("set", "test-clean en"))
    assert f"{100 * (rates.words.rate or 0):.2f} %" in english
    assert english.endswith("57 of 60    95.0 %")
    assert not any("speaker" in line for line in lines)
    assert not any(line.startswith("language") for line in lines)  # each has one set: they would say the same again


def test_languages_of_several_sets_have_lines_of_their_own() -> None:
    second = [replace(one, key="fleurs en") for one in NIGHT.rates if one.key == "test-clean en"]
    lines = summary_lines(replace(NIGHT, rates=[*NIGHT.rates, *second]))
    assert [line.split()[1] for line in lines if line.startswith("language")] == ["en", "de", "hi", "zh"]


def test_a_sweep_shows_rate_beside_speed_of_every_combination() -> None:
    lines = summary_lines(NIGHT)
    swept = [line for line in lines if line.startswith("sweep")]
    assert len(swept) == len(NIGHT.sweep) == 6
    assert "max_steps 4, canvas_length 64" in swept[0]
    assert swept[0].split()[-2:] == ["241.0", "2.8"]
    assert not any(line.startswith("sweep") for line in summary_lines(replace(NIGHT, sweep=())))


def test_comparisons_name_the_smallest_difference_they_could_have_shown() -> None:
    lines = [line for line in summary_lines(NIGHT) if "points on)" in line]
    assert [line.split(":")[0] for line in lines] == ["en", "de", "hi", "zh"]
    assert "regressed (80 % power from 1.15 points on)" in lines[1]


@pytest.mark.parametrize(
    ("verdict", "last"),
    [
        (Verdict(), ["passed"]),
        (Verdict((), ("close",)), ["warning: close", "passed"]),
        (Verdict(("a", "b")), ["FAILED: a", "FAILED: b"]),
        (Verdict(tuple("abcde")), ["FAILED: a", "FAILED: b", "FAILED: and 3 more"]),
    ],
)
def test_a_failure_ends_with_its_reason_in_three_lines_at_most(verdict: Verdict, last: list[str]) -> None:
    lines = summary_lines(replace(NIGHT, verdict=verdict))
    assert lines[-len(last) :] == last
    assert sum(line.startswith("FAILED") for line in lines) == sum(line.startswith("FAILED") for line in last)


def test_names_from_outside_stay_on_their_line() -> None:
    rates = [replace(one, key="中文\n\x1b[31mred") for one in NIGHT.rates if one.group == "set"]
    lines = summary_lines(replace(NIGHT, rates=rates, verdict=Verdict(("a\nb",))))
    assert all(line.isprintable() for line in lines)
    assert any("中文 [31mred" in line for line in lines)
    assert lines[-1] == "FAILED: a b"


def test_an_evaluation_of_nothing_has_lines() -> None:
    empty = replace(NIGHT, rates=[], comparisons=[], verdict=Verdict(("nothing was evaluated",)))
    assert summary_lines(empty)[-1] == "FAILED: nothing was evaluated"
