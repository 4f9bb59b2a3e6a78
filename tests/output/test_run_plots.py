"""The plots of a run's report: nothing where nothing is known, the right figures where something is."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from html import unescape

import numpy as np
import pytest

from pipeline.output import run_plots
from pipeline.output.statistics import BINS, LanguageFigures


def texts(drawing: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawing)]


def test_nothing_is_drawn_of_nothing() -> None:
    assert run_plots.throughput({}) == run_plots.steps({}) == run_plots.lengths({}) == run_plots.confidence({}) == ""
    assert run_plots.confidence({"de": LanguageFigures(3, 900)}) == ""


@pytest.mark.parametrize(("minutes", "drawn"), [(2, False), (3, True), (500, True), (50_000, True)])
def test_throughput_has_few_points_however_long_a_run_was(minutes: int, drawn: bool) -> None:
    start = datetime(2026, 1, 31, 23, 58)
    ends = (start, start + timedelta(minutes=minutes - 1))
    drawing = run_plots.throughput({end.isoformat(timespec="minutes"): 16_000 * 60 for end in ends})
    assert bool(drawing) == drawn
    assert len(drawing) < 60_000


def test_throughput_is_audio_by_time() -> None:
    """Two minutes with 10 minutes of audio, and a pause between them: RTFx 10, and 0."""
    drawing = run_plots.throughput({"2026-01-31T23:58": 16_000 * 600, "2026-02-01T00:01": 16_000 * 600})
    assert "10" in texts(drawing)
    assert "RTFx" in texts(drawing)
    assert "12" not in texts(drawing)


def test_lengths_and_steps_are_named() -> None:
    named = texts(run_plots.lengths({"0": 3, "300": 1, "3600": 2}))
    assert {"<1 s", "10 s", "1 min", "30 min", "1 h"} <= set(named)
    assert {"0", "4", "8"} <= set(texts(run_plots.steps({1: 5, 16: 9})))
    assert "0+" in texts(run_plots.steps({1: 5, 200: 9}))


def test_many_languages_are_cut() -> None:
    one = LanguageFigures(1, 1000, np.ones(BINS, np.int64))
    named = texts(run_plots.confidence({f"{number}-{'x' * 40}": one for number in range(90)}))
    assert sum("x" in text for text in named) == run_plots.LANGUAGES
    assert max(map(len, named)) == run_plots.NAME
