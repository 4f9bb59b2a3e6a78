"""plots: well-formed SVG that loads nothing, is the same every time and says what it shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree

import pytest

from pipeline.evaluation import plots
from pipeline.evaluation.rates import Bin
from pipeline.evaluation.result import Point, SweepPoint
from pipeline.evaluation.wording import setting_labels
from tests.support.evaluated import NIGHT, comparison, made_up_history, made_up_rates, made_up_rows, made_up_sweep

ROWS = made_up_rows(per_language=20)
RATES = made_up_rates(ROWS)
BINS = [Bin(0.5, 0.6, 3, 30, 0.55, 0.7), Bin(0.9, 1.0, 14, 100, 0.96, 0.95)]
NASTY = "$x{</text><script>"

ALL: dict[str, Callable[[], str]] = {
    "over time": lambda: plots.over_time(made_up_history()),
    "by language": lambda: plots.by_language(RATES, [comparison("de")]),
    "by duration": lambda: plots.by_duration(RATES),
    "calibration": lambda: plots.calibration(BINS),
    "sweep": lambda: plots.sweep(made_up_sweep(ROWS)),
}


def texts(svg: str) -> list[str]:
    """What stands in the drawing; raises ParseError if it is no XML."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", ALL)
def test_a_plot_is_the_same_every_time_and_loads_nothing(name: str) -> None:
    svg = ALL[name]()
    assert svg == ALL[name]()
    assert svg.startswith("<svg ")
    assert texts(svg)
    addresses = set(re.findall(r"""https?://[^"'<> ]*""", svg))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of the format
    assert "<style" not in svg
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]", svg)  # no colour but the page's


def test_ids_of_different_plots_differ() -> None:
    drawn = [set(re.findall(r' id="([^"]+)"', draw())) for draw in ALL.values()]
    hashes = [{one for one in ids if re.fullmatch(r"[mpDC][0-9a-f]+", one)} for ids in drawn]
    assert all(hashes)
    assert len(set.union(*hashes)) == sum(map(len, hashes))


def test_over_time_has_a_panel_per_language_and_marks_the_change_of_model() -> None:
    svg = plots.over_time(made_up_history())
    assert {"de (WER, %)", "en (WER, %)", "hi (WER, %)", "zh (CER, %)"} <= set(texts(svg))
    assert svg.count("var(--other") == 4  # one dotted line in each
    assert "var(--other" not in plots.over_time([replace(one, model="m") for one in made_up_history()])


def test_many_nights_make_a_band_and_a_small_drawing() -> None:
    point = Point(NIGHT, "e", "m", "en", "WER", 0.05, 0.04, 0.06)
    year = [replace(point, evaluated_at=NIGHT - timedelta(days=day)) for day in range(365)]
    assert len(plots.over_time(year)) < 60_000


def test_a_single_night_is_drawn() -> None:
    assert "en (WER, %)" in texts(plots.over_time([Point(NIGHT, "e", "m", "en", "WER", 0.05, 0.04, 0.06)]))


def test_by_language_shows_the_baseline_only_where_there_is_one() -> None:
    assert "baseline" in texts(plots.by_language(RATES, [comparison("de")]))
    assert "baseline" not in texts(plots.by_language(RATES))


@pytest.mark.parametrize("prefix", ["en ", ""])
def test_durations_keep_their_order_and_their_counts(prefix: str) -> None:
    rates = [
        replace(RATES[0], group="duration", key=f"{prefix}{bucket}", recordings=number)
        for number, bucket in enumerate(("below 2 s", "2-5 s", "30 s and more"), 101)
    ]
    found = texts(plots.by_duration(rates))
    assert [one for one in found if one in ("<2", "2-5", "30+")] == ["<2", "2-5", "30+"]
    assert {"101", "102", "103"} <= set(found)
    assert f"{prefix.strip() or 'all'} (WER, %)" in found


def test_calibration_says_its_error_and_how_many_recordings() -> None:
    found = texts(plots.calibration(BINS))
    assert "expected calibration error 0.042" in found  # (30 * 0.15 + 100 * 0.01) / 130
    assert {"3", "14"} <= set(found)


def test_points_of_a_sweep_are_named_after_what_differs() -> None:
    found = texts(plots.sweep(made_up_sweep(ROWS)))
    assert {f"max_steps {steps}, canvas_length {canvas}" for steps in (4, 8, 16) for canvas in (64, 128)} <= set(found)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([{"a.x": 1, "b.y": 2}, {"a.x": 3, "b.y": 2}], ["x 1", "x 3"]),
        ([{"a.x": 1, "b.x": 2}, {"a.x": 3, "b.x": 4}], ["a.x 1, b.x 2", "a.x 3, b.x 4"]),
        ([{"a.x": 1}], ["x 1"]),
        ([{"a.x": True}, {"a.x": None}], ["x True", "x None"]),
    ],
)
def test_setting_labels(settings: list[dict[str, object]], expected: list[str]) -> None:
    assert setting_labels([SweepPoint(one, {}, RATES[0], 1.0, None) for one in settings]) == expected


def test_labels_of_a_sweep_do_not_lie_on_each_other() -> None:
    same = [replace(one, rtfx=100.0, overall=RATES[0]) for one in made_up_sweep(ROWS)]
    svg = plots.sweep(same)
    places = re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>max_steps', svg)
    assert len(set(places)) == len(same)


def test_long_names_leave_room_for_the_drawing(recwarn: pytest.WarningsRecorder) -> None:
    long = [replace(one, key="x" * 500) for one in RATES if one.group == "language"]
    sweep = [replace(one, settings={"a.x": "y" * 500 + str(place)}) for place, one in enumerate(made_up_sweep(ROWS))]
    assert f"{'x' * 19}… (WER)" in texts(plots.by_language(long))
    assert plots.sweep(sweep)
    assert not list(recwarn)


def test_nothing_to_show_is_no_drawing() -> None:
    untimed = [replace(one, rtfx=None) for one in made_up_sweep(ROWS)]
    empty = (plots.over_time([]), plots.by_language([]), plots.by_duration([]), plots.calibration([]))
    assert (*empty, plots.sweep([]), plots.sweep(untimed)) == ("",) * 6


def test_names_from_outside_stay_text() -> None:
    history = [replace(one, language=NASTY) for one in made_up_history(2)[:1]]
    rates = [replace(one, key=NASTY) for one in RATES if one.group == "language"]
    for svg in (plots.over_time(history), plots.by_language(rates)):
        assert "<script" not in svg
        assert any(NASTY in text for text in texts(svg))


@pytest.mark.parametrize("name", ["हिन्दी", "中文"])
def test_letters_of_any_script_are_text_for_the_browser(name: str, recwarn: pytest.WarningsRecorder) -> None:
    rates = [replace(one, key=name) for one in RATES if one.group == "language"][:1]
    assert f"{name} (WER)" in texts(plots.by_language(rates))
    assert not list(recwarn)
