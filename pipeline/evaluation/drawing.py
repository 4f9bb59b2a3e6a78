"""Drawings of matplotlib as SVG text that follows the colours and fonts of the page around it."""

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

# Drawn in these, then replaced by a variable of the page; after the comma what holds where there is no such page.
INK, LINE, SERIES, OTHER = "#010101", "#020202", "#030303", "#040404"
_COLOURS = {
    INK: "var(--ink,#1c2127)",
    LINE: "var(--line,#d5dae0)",
    SERIES: "var(--series,#0b62b8)",
    OTHER: "var(--other,#b45309)",
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the browser has the letters of Hindi and Chinese
    "text.parse_math": False,  # a name may hold a dollar sign
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
def drawing(name: str) -> Iterator[None]:
    """The settings of one plot. Its name enters the ids of its shapes: the same every time, others in another plot."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # whatever a matplotlibrc of this machine says
        matplotlib.rcParams.update(_SETTINGS | {"svg.hashsalt": name})
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # only measured here, shown elsewhere
        yield


def svg(name: str, figure: Figure, title: str) -> str:
    """The drawing as one <svg> element, without date, file header and ids that nothing refers to."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # would hold for the whole page
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font,system-ui),sans-serif", text)
    for drawn, shown in _COLOURS.items():
        text = text.replace(drawn, shown)
    style = "stroke-linejoin:round;stroke-linecap:butt"
    head = f'<svg role="img" aria-label="{escape(title)}" class="{name}" style="{style}" '
    return text.replace("<svg ", head, 1)
