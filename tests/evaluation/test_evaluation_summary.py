"""summary: the lines at the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from pipeline.evaluation.result import Verdict
from pipeline.evaluation.summary import summary_lines
from tests.support.evaluated import made_up_evaluation, made_up_rows

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


def test_comparisons_name_the_smallest_difference_they_would_have_seen() -> None:
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
