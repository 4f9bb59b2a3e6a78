"""page: every value is escaped, the style is not; tables have heads for rows and columns; no name may be missing."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest

from pipeline.output.page import markdown, render_page
from tests.output.test_report import NASTY
from tests.output.test_report import page as run_report


def test_the_style_is_not_escaped(tmp_path: Path) -> None:
    text = run_report(tmp_path)
    assert f"<title>Transcripts in {tmp_path}/out</title>" in text
    assert "ol.worst > li {" in text[text.index("<style>") : text.index("</style>")]


def test_attributes_are_escaped_too() -> None:
    row = {"recording_id": "a", "language": NASTY, "figures": [], "separator": " ", "stretches": [], "left_out": 0}
    text = render_page("worst.html.j2", utterances=[row | {"audio": NASTY, "address": NASTY}])
    assert "<script" not in text
    for attribute in ("lang", "src", "aria-label"):
        assert re.search(f' {attribute}="(play )?&lt;script&gt;alert\\(&#34;1&#34;\\)&lt;/script&gt;"', text)


def test_a_table_has_heads_for_its_rows_and_columns_and_figures_to_the_right(tmp_path: Path) -> None:
    text = run_report(tmp_path)
    assert '<th scope="col" dir="auto">reason</th><th scope="col" dir="auto">meaning</th>' in text
    assert '<th scope="col" class="figure" dir="auto">recordings</th>' in text
    assert '<th scope="row" class="name">model_error</th>' in text
    assert '<td class="figure">1</td>' in text
    label = "Dead letters by reason"
    assert f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>' in text


def test_a_name_that_is_not_given_is_a_mistake() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'changed' is undefined"):
        render_page("run.html.j2", accounting={})


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", "a\\|b"),
        ("a\nb\r\n| c |", "a b \\| c \\|"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[here](javascript:x)", "\\[here\\](javascript:x)"),
        ("`code` *x* _y_ ~z~ \\|", "\\`code\\` \\*x\\* \\_y\\_ \\~z\\~ \\\\\\|"),
        ("/data/café 鱼.wav", "/data/café 鱼.wav"),
    ],
)
def test_text_from_outside_means_nothing_in_markdown(text: str, written: str) -> None:
    assert markdown(text) == written
