"""The plots of a selection, each as the text of one <svg>."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from pipeline.output.drawing import INK, LINE, SERIES, svg, svg_canvas

WIDTH, ROW = 10.4, 0.34  # inches of 72 units: the page, and one bar


def funnel(found: dict[str, Any]) -> str:
    """Hours left after each reason; what it took is pale."""
    steps = found["funnel"]
    names = ["all", *(step["reason"] for step in steps)]
    left = [found["hours"], *(step["hours_left"] for step in steps)]
    taken = [0.0, *(step["hours"] for step in steps)]
    return _bars("labels-funnel", names, left, taken, "Hours left after each reason for dropping segments")


def languages(found: dict[str, Any]) -> str:
    """Hours kept by language; what was dropped is pale."""
    rows = found["languages"]
    kept = [one["hours_kept"] for one in rows.values()]
    dropped = [one["hours"] - one["hours_kept"] for one in rows.values()]
    return _bars("labels-languages", list(rows), kept, dropped, "Hours kept by language")


def _bars(name: str, names: list[str], kept: list[float], dropped: list[float], title: str) -> str:
    with svg_canvas(name):
        figure = Figure(figsize=(WIDTH, 0.8 + ROW * len(names)), layout="constrained")
        axes = figure.subplots()
        places = range(len(names))
        axes.barh(places, kept, color=SERIES)
        axes.barh(places, dropped, left=kept, color=LINE)
        for place, hours in zip(places, kept, strict=True):
            axes.annotate(f" {hours:,.3f}", (hours, place), va="center", color=INK)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel("hours")
        return svg(name, figure, title)
