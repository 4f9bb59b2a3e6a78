"""report.html: the figures are there, nothing from outside is trusted, nothing is loaded."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pipeline.output.accounting import close_books
from pipeline.output.publish import publish_tables
from pipeline.output.report import render, write_report
from pipeline.output.tables import Line
from pipeline.storage.base import open_storage
from tests.support.outputs import plan, ref, run

SUMMARY: dict[str, Any] = {
    "recordings": 4321,
    "recordings_transcribed": 4319,
    "recordings_dead_lettered": 2,
    "segments": 9,
    "audio_hours": 1.5,
    "units_committed": 3,
    "units_planned": 4,
    "published": "2026-01-01",
    "dead_letters": {"not_audio": 2},
}
BOOKS: dict[str, Any] = {
    "closed": False,
    "complaints": ["1 & 2"],
    "seconds_in": 5400.0,
    "seconds_transcribed": 5000.0,
    "seconds_silence": 400.0,
    "seconds_lost": 0.0,
    "seconds_dead_lettered": 0.0,
}
NASTY = '<script>alert("1")</script>'


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [attribute for attribute in attrs if attribute[0] in ("src", "href")]


def page() -> str:
    letters = [
        {"recording_id": NASTY, "reason": "not_audio", "error": NASTY, "source_uri": NASTY, "source_member": None}
    ]
    return render(NASTY, SUMMARY, BOOKS, {NASTY: 0.25}, [Line(NASTY, None, NASTY, 0.123)], letters)


def test_text_from_outside_is_escaped() -> None:
    assert "<script" not in page()
    assert page().count("&lt;script&gt;") == 8  # title, heading, language, recordings, error, source, text


def test_the_page_loads_nothing() -> None:
    tags = Tags()
    tags.feed(page())
    assert not tags.tags & {"script", "img", "iframe"}
    assert tags.links == [("href", "data:,")]  # no icon
    assert "default-src 'none'" in page()


def test_the_figures_are_there() -> None:
    text = page()
    for figure in ("4,321", "4,319", "1.500", "3 of 4", "5,400.000", "0.2500", "0.12", "not closed", "1 &amp; 2"):
        assert figure in text


def test_the_report_of_an_output(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    run(storage, plan(storage, [ref(number) for number in range(4)]), dead=["r2"])
    write_report(storage, publish_tables(storage), close_books(storage))
    text = (tmp_path / "out" / "report.html").read_text()
    assert "hallo hallo" in text
    assert "model_error" in text
    assert "The accounting is closed" in text
