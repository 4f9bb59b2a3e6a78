"""page: tables and sections escape what is no markup and leave out what is empty."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from pipeline.evaluation.page import page, plot, section, table


def test_a_cell_is_escaped_unless_it_is_markup() -> None:
    found = table("a<b", ["x<y"], [["<i>", Markup("<b>1</b>")]])
    assert "&lt;i&gt;" in found
    assert "<b>1</b>" in found
    assert "a&lt;b" in found
    assert "x&lt;y" in found


def test_a_table_has_heads_for_its_rows_and_columns_and_figures_to_the_right() -> None:
    found = table("caption", ["name", "n"], [["en", "5"]])
    assert '<th scope="col" class="w" dir="auto">name</th><th scope="col" class="n">n</th>' in found
    assert '<th scope="row" class="w" dir="auto">en</th><td class="n">5</td>' in found
    assert '<div class="scroll" role="region" tabindex="0" aria-label="caption">' in found


@pytest.mark.parametrize("empty", [table("c", ["h"], []), plot("", "c"), section("s", "title", Markup(), Markup())])
def test_what_is_empty_is_left_out(empty: Markup) -> None:
    assert empty == ""


def test_the_title_is_escaped_and_the_style_is_not() -> None:
    text = page("<script>", [section("s", "A & B", Markup("<p>x</p>"))])
    assert "<title>&lt;script&gt;</title>" in text
    assert "A &amp; B" in text
    assert "ol.worst>li" in text
    assert "<p>x</p>" in text
