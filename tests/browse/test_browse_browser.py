"""The page of jobs.browse in a real browser: on a desktop and a phone, by keys, light and dark, and its players."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.browse.server import PageServer
from tests.browse.test_browse_server import served
from tests.evaluation.test_evaluation_browser import COLOUR, contrast, luminance, sideways
from tests.support.browsed import NASTY, output
from tests.support.browser import DESKTOP, PHONE, Browser, Tab

GROUND = """(element => {
  const brush = document.createElement('canvas').getContext('2d');
  for (let one = element, all = []; ; one = one.parentElement) {
    if (one) { all.unshift(getComputedStyle(one).backgroundColor); continue; }
    for (const colour of all) { brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1); }
    return `rgb(${[...brush.getImageData(0, 0, 1, 1).data].slice(0, 3)})`;
  }
})(document.querySelector('%s'))"""
PLAYED = """new Promise((done, fail) => {
  const player = document.querySelector('audio');
  player.onerror = () => fail(player.error.message);
  player.onseeked = () => done([player.duration, player.currentTime]);
  player.onloadedmetadata = () => { player.currentTime = 0.5; };
  player.preload = 'auto';
  player.load();
})"""
WHY = """new Promise(done => {
  const player = document.querySelector('audio');
  player.preload = 'auto';
  player.load();
  const look = () => document.querySelector('p[role=alert]')?.textContent;
  const timer = setInterval(() => { if (look()) { clearInterval(timer); done(look()); } }, 20);
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browsed")
    output(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[PageServer]:
    with served(folder / "out") as server:
        yield server


def press(tab: Tab, *keys: str) -> None:
    """Press keys; "Enter" sends a form."""
    for key in keys:
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        tab.call("Input.dispatchKeyEvent", type="keyUp", key=key)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("asked", ["", "&text=guten&order=unsure", "&show=dead", "&low=7", "&text=nowhere"])
def test_a_page_has_no_error_no_request_and_no_sideways_scrolling(
    browser: Browser, server: PageServer, size: tuple[int, int], asked: str
) -> None:
    tab = browser.open(f"{server.address}{asked}", size)
    assert [text for text in tab.complaints() if "400 (Bad Request)" not in text] == []
    assert [one for one in tab.requests() if not one.startswith("data:")] == [f"{server.address}{asked}"]
    assert tab.evaluate("innerWidth") == size[0]
    assert sideways(tab) == 0
    smallest = "Math.min(...[...document.querySelectorAll('form :is(input:not([type=hidden]), select, button)')]"
    assert tab.evaluate(f"{smallest}.map(one => one.getBoundingClientRect().height))") >= 40
    tab.close()


def test_a_player_plays_its_segment_from_any_place(browser: Browser, server: PageServer) -> None:
    tab = browser.open(f"{server.address}&text=guten", PHONE)
    assert not any("/audio" in one for one in tab.requests())  # nothing before somebody asks for it
    assert tab.evaluate(PLAYED) == [0.9, 0.5]
    assert tab.complaints() == []
    tab.close()


def test_keys_search_go_to_a_hit_and_play_it(browser: Browser, server: PageServer) -> None:
    tab = browser.open(server.address, DESKTOP)
    press(tab, "/")
    assert tab.evaluate("document.activeElement.id") == "text"
    tab.call("Input.insertText", text=NASTY)

    def loads() -> int:
        return sum(event["method"] == "Page.loadEventFired" for event in browser.events)

    before = loads()
    press(tab, "Enter")
    while loads() == before:
        browser.pump()
    assert tab.evaluate("document.getElementById('text').value") == NASTY
    assert tab.evaluate("document.querySelector('#hits .text').textContent") == NASTY
    assert tab.evaluate("document.querySelectorAll('#hits > li').length") == 1
    press(tab, "ArrowDown")
    assert tab.evaluate("document.activeElement.matches('#hits > li:first-child')")
    press(tab, " ")
    wait = "new Promise(done => { const a = document.querySelector('audio'); a.paused ? a.onplay = done : done(); })"
    tab.evaluate(f"{wait}.then(() => true)")
    assert tab.complaints() == []
    tab.close()


def test_audio_out_of_reach_says_why_in_place_of_its_player(browser: Browser, server: PageServer, folder: Path) -> None:
    (folder / "in/r2.wav").rename(folder / "in/gone")
    tab = browser.open(f"{server.address}&recording=r2", PHONE)
    assert tab.evaluate(WHY).startswith("missing_file: ")
    assert tab.evaluate("document.querySelectorAll('audio').length") == 1
    assert sideways(tab) == 0
    tab.close()
    (folder / "in/gone").rename(folder / "in/r2.wav")


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_follow_the_system_and_can_be_read(browser: Browser, server: PageServer, dark: bool) -> None:
    """Contrast of at least 4.5 (WCAG AA) for all text, also that of the least sure word; doubt has no colour alone."""
    tab = browser.open(f"{server.address}&text=guten", DESKTOP, dark=dark)
    assert (luminance(tab.evaluate(GROUND % "body")) < 0.1) == dark
    for element in (
        "body",
        "label",
        "input[type=search]",
        "select",
        "button",
        ".soft",
        ".word",
        ".unsure",
        "mark",
        ".place",
    ):
        ink = luminance(tab.evaluate(COLOUR.format(element, "color")))
        assert contrast(ink, luminance(tab.evaluate(GROUND % element))) >= 4.5, element
    assert tab.evaluate(GROUND % ".unsure") != tab.evaluate(GROUND % "body")
    assert "dotted" in tab.evaluate(COLOUR.format(".unsure", "textDecorationStyle"))
    tab.close()
