"""Drawings of matplotlib as SVG text that takes colours and fonts from the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Matplotlib draws in these colours, which variables of the page then replace. Behind the comma: without such a page.
INK, LINE, SERIES, OTHER = "#010101", "#020202", "#030303", "#040404"
_COLOURS = {
    INK: "var(--ink,#1c2127)",
    LINE: "var(--line,#d5dae0)",
    SERIES: "var(--series,#0b62b8)",
    OTHER: "var(--other,#b45309)",
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, since the browser has fonts for Hindi and Chinese
    "text.parse_math": False,  # a name may contain a dollar sign
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@contextmanager
def svg_canvas(name: str) -> Iterator[None]:
    """The settings of one plot. The ids of its shapes depend on its name, so they differ between plots."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # ignore any matplotlibrc of this machine
        matplotlib.rcParams.update(_SETTINGS | {"svg.hashsalt": name})
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has other fonts
        yield


def svg(name: str, figure: Figure, title: str) -> str:
    """The drawing as one <svg> element, without date, file header and unused ids."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font,system-ui),sans-serif", text)
    for drawn, shown in _COLOURS.items():
        text = text.replace(drawn, shown)
    style = "stroke-linejoin:round;stroke-linecap:butt"
    head = f'<svg role="img" aria-label="{escape(title)}" class="{name}" style="{style}" '
    return text.replace("<svg ", head, 1)
