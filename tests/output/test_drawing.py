"""drawing: the same SVG on every machine, in the colours of the page, without what a page must not contain."""

from __future__ import annotations

import re

import matplotlib
from matplotlib.figure import Figure

from pipeline.output.drawing import INK, SERIES, svg, svg_canvas


def line(name: str, title: str = "a line", label: str = "label") -> str:
    with svg_canvas(name):
        figure = Figure(figsize=(2, 1))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], "o-", color=SERIES)
        axes.set_title(label, color=INK)
        return svg(name, figure, title)


def test_the_settings_of_the_machine_do_not_matter_and_are_kept() -> None:
    expected = line("a")
    with matplotlib.rc_context({"svg.fonttype": "path", "font.size": 30, "lines.linewidth": 9}):
        assert line("a") == expected
        assert matplotlib.rcParams["font.size"] == 30


def test_colours_and_fonts_are_those_of_the_page() -> None:
    text = line("a")
    assert "var(--series,#0b62b8)" in text
    assert "var(--ink,#1c2127)" in text
    assert SERIES not in text
    assert set(re.findall('font-family: ([^;"]*)', text)) == {"var(--font,system-ui),sans-serif"}


def test_ids_are_only_those_that_are_used_and_differ_between_names() -> None:
    one, other = (set(re.findall(r' id="([^"]+)"', line(name))) for name in ("a", "b"))
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', line("a")))
    assert one == used
    assert not one & other


def test_no_style_no_date_and_no_file_header() -> None:
    text = line("a")
    assert text.startswith('<svg role="img" aria-label="a line" class="a" ')
    assert text.endswith("</svg>")
    assert not re.search("<style|<metadata|<\\?xml|DOCTYPE", text)


def test_titles_and_labels_are_escaped() -> None:
    text = line("a", title='"><script>', label="</text><script>")
    assert "<script" not in text
    assert 'aria-label="&quot;&gt;&lt;script&gt;"' in text
