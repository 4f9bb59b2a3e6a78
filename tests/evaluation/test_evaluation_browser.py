"""The pages a person opens, in a real browser: no error, no request, no sideways scrolling, players that play."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.evaluation.report import render
from pipeline.evaluation.side_by_side_report import render as side_by_side
from tests.evaluation.test_evaluation_report import NASTY, hostile
from tests.output.test_report import page as run_report
from tests.support.browser import DESKTOP, PHONE, Browser, Tab
from tests.support.evaluated import evaluated_table, made_up_evaluation, made_up_rows, made_up_side_by_side, row

SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
COLOUR = "getComputedStyle(document.querySelector('{}')).{}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with a real recording beside it, an attack, and the report of a run."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "audio").mkdir()
    soundfile.write(folder / "audio" / "a b#1.wav", np.zeros(24_000, np.int16), 16_000)
    spoken = row("en", "a b c " * 30, "x y z " * 30, recording_id="spoken", audio="audio/a b#1.wav")
    rows = [spoken, *made_up_rows()]
    long = {"weights": "a-name-without-any-space-" * 20}
    night = made_up_evaluation(rows[1:])
    night = replace(night, about={**night.about, **long}, evaluation="nightly-" + "0" * 200)
    (folder / "evaluation.html").write_text(render(night, evaluated_table(rows)))
    (folder / "hostile.html").write_text(hostile())
    (folder / "run.html").write_text(run_report(folder))
    (folder / "side-by-side.html").write_text(side_by_side(made_up_side_by_side("tiny", "whisper-base", "long-" * 30)))
    return folder


@pytest.fixture(params=["evaluation", "hostile", "run", "side-by-side"])
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    return (folder / f"{request.param}.html").as_uri()


@pytest.fixture
def broken(browser: Browser, tmp_path: Path) -> Iterator[Tab]:
    """A page that does all that ours must not do."""
    page = tmp_path / "broken.html"
    page.write_text(
        "<meta name=viewport content='width=device-width'><img src='http://elsewhere.example/a.png'>"
        "<div style='width:2000px'>wide</div><script>console.error('no'); missing()</script>"
    )
    tab = browser.open(page.as_uri(), PHONE)
    yield tab
    tab.close()


def sideways(tab: Tab) -> int:
    """By how many pixels the page is wider than what is seen of it."""
    found: int = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found


def test_these_tests_would_see_errors_requests_and_scrolling(broken: Tab) -> None:
    complaints = " ".join(broken.complaints())
    assert "'no'" in complaints
    assert "missing is not defined" in complaints
    assert "http://elsewhere.example/a.png" in broken.requests()
    assert sideways(broken) > 1000


@SIZES
def test_a_page_has_no_error_no_request_and_no_sideways_scrolling(
    browser: Browser, url: str, size: tuple[int, int]
) -> None:
    tab = browser.open(url, size)
    assert tab.complaints() == []
    assert [one for one in tab.requests() if not one.startswith("data:")] == [url]  # data: icons of the players
    assert tab.evaluate("innerWidth") == size[0]  # laid out for this screen, not made smaller
    assert sideways(tab) == 0
    assert tab.evaluate("document.body.innerText.length") > 100
    tab.close()


def test_an_attack_stays_text(browser: Browser, folder: Path) -> None:
    tab = browser.open((folder / "hostile.html").as_uri())
    assert tab.evaluate("document.querySelectorAll('script, img').length") == 0
    assert NASTY in tab.evaluate("document.querySelector('h1').innerText")
    assert NASTY in tab.evaluate("document.querySelector('.worst header b').innerText")
    tab.close()


def test_a_wide_table_scrolls_by_itself_and_plots_can_be_read(browser: Browser, folder: Path) -> None:
    tab = browser.open((folder / "evaluation.html").as_uri(), PHONE)
    assert tab.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('#rates .scroll'))") > 300
    assert tab.evaluate("document.querySelectorAll('svg[role=img]').length") == 5
    sizes = "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    assert tab.evaluate(f"Math.min(...{sizes}.filter(h => h > 0))") > 7
    tab.close()


def test_the_plots_of_a_run_can_be_read_on_a_phone(browser: Browser, folder: Path) -> None:
    tab = browser.open((folder / "run.html").as_uri(), PHONE)
    assert tab.evaluate("document.querySelectorAll('svg[role=img]').length") == 3
    sizes = "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    assert tab.evaluate(f"Math.min(...{sizes})") > 7
    tab.close()


@SIZES
@pytest.mark.parametrize("page", ["evaluation", "run"])
def test_the_recording_beside_the_report_plays(
    browser: Browser, folder: Path, page: str, size: tuple[int, int]
) -> None:
    tab = browser.open((folder / f"{page}.html").as_uri(), size)
    assert not any("a%20b" in one for one in tab.requests())  # nothing before somebody asks for it
    seconds = tab.evaluate(
        "new Promise((done, fail) => { const a = document.querySelector('audio'); a.onloadedmetadata = () => "
        "done(a.duration); a.onerror = () => fail(a.error.message); a.preload = 'metadata'; a.load() })"
    )
    assert seconds == 1.5
    tab.close()


def test_light_and_dark_follow_the_system_and_can_be_read(browser: Browser, folder: Path) -> None:
    """Contrast of at least 4.5 (WCAG AA) for text, marks and plots on their paper."""
    for dark in (False, True):
        tab = browser.open((folder / "evaluation.html").as_uri(), dark=dark)
        paper = luminance(tab.evaluate(COLOUR.format("body", "backgroundColor")))
        assert (paper < 0.1) == dark
        for element, kind in (("body", "color"), (".soft", "color"), ("nav a", "color"), ("svg text", "fill")):
            assert contrast(luminance(tab.evaluate(COLOUR.format(element, kind))), paper) >= 4.5, element
        for element in ("#worst li del", "#worst li ins"):
            ink, ground = (tab.evaluate(COLOUR.format(element, kind)) for kind in ("color", "backgroundColor"))
            assert contrast(luminance(ink), luminance(ground)) >= 4.5, element
        tab.close()


@pytest.mark.parametrize("dark", [False, True])
def test_the_report_of_a_run_follows_the_system(browser: Browser, folder: Path, dark: bool) -> None:
    tab = browser.open((folder / "run.html").as_uri(), dark=dark)
    paper = luminance(tab.evaluate(COLOUR.format("body", "backgroundColor")))
    assert (paper < 0.1) == dark
    for element in ("body", ".verdict", "caption", "thead th", "dt", "nav a"):
        ink = luminance(tab.evaluate(COLOUR.format(element, "color")))
        ground = tab.evaluate(COLOUR.format(element, "backgroundColor"))
        assert contrast(ink, paper if ground == "rgba(0, 0, 0, 0)" else luminance(ground)) >= 4.5, element
    tab.close()


def test_differences_are_marked_without_colour_too(browser: Browser, folder: Path) -> None:
    tab = browser.open((folder / "evaluation.html").as_uri())
    assert tab.evaluate(COLOUR.format("#worst li del", "textDecorationLine")) == "line-through"
    assert tab.evaluate(COLOUR.format("#worst li ins", "textDecorationLine")) == "underline"
    tab.close()


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)", in [0, 1]. Source: WCAG 2.2."""
    channels = [float(one) / 255 for one in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
