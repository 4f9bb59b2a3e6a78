"""The pages of the documentation: settings in their text, links, the picture."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from infra.pictures import terminal
from pipeline.config import RunConfig
from tests.support.pages import commands, pages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/first-gpu-run.md").read_text()


def test_the_first_gpu_run_has_the_whole_way() -> None:
    own = commands("docs/first-gpu-run.md")
    assert {command.job[0] for command in own if command.job} == {"doctor", "bench", "evaluate", "plan", "transcribe"}
    assert [command.text for command in own if command.text.startswith("make ")][1:] == ["make demo", "make bench-gpu"]


def test_keys_named_in_the_text_are_settings() -> None:
    named = {text.split("=")[0] for text in re.findall(r"`((?:model|compute|plan)\.[a-z_]+=[^`]+)`", PAGE)}
    assert len(named) > 4
    for key in named:
        section, name = key.split(".")
        assert name in RunConfig.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_the_picture_is_the_one_that_the_code_draws() -> None:
    pytest.importorskip("torch", reason="needs torch")
    from infra.dataflow import PICTURE, draw

    assert PICTURE.read_text(encoding="utf-8") == draw(), "python -m infra.dataflow"


def test_the_picture_of_a_terminal_is_drawn_from_a_sign_of_life_and_loads_nothing() -> None:
    figures = {"units_total": 8, "units_done": 8, "audio_seconds": 309.0, "rtfx": 2.1, "eta_seconds": None}
    figures |= {"eta_low": None, "eta_high": None, "at_work": {}, "dead_letters": {"not_audio": 3}}
    sign = {"state": "done", "seconds": 120.0, "phases": {"planning": 1.0, "transcribing": 100.0}, **figures}
    summary = {"recordings": 45, "segments": 111, "audio_hours": 0.1, "recordings_dead_lettered": 3, "complete": True}
    svg = terminal(sign, summary, "make demo")
    ElementTree.fromstring(svg)  # the README shows it as a picture
    assert "8&#160;of&#160;8&#160;units" in svg
    assert not re.search(r"href|src=|url\(.?http", svg)


def test_the_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:pipeline|jobs|tests|infra|docs)/[\w/.-]+)`", text))
    assert len(named) > 30
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_start_page_and_the_menu_have_every_page() -> None:
    start, menu = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/README.md", "infra/mkdocs.yml"))
    own = [page for page in pages() if page.startswith("docs/") and page != "docs/README.md"]
    assert not [page for page in own if f"]({Path(page).name})" not in start]
    assert not [page for page in [*pages(), "CHANGELOG.md"] if f": {page}\n" not in menu]


@pytest.mark.parametrize("page", pages())
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(((?!https?:)[\w./-]+)", path.read_text(encoding="utf-8")):
        assert path.parent.joinpath(link).exists(), link
