"""The report of a calibration: one HTML page, a table for the terminal, a Markdown table for a model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.calibration import plots
from pipeline.calibration.figures import Figures, Scored
from pipeline.evaluation.wording import NOTHING
from pipeline.output.page import markdown, render_page

COLUMNS = ("NCE", "ECE", "AUROC", "AUPR of errors", "AURC", "Spearman with WER")
PLOTTED = ("raw", "calibrated")


def render(about: dict[str, Any], figures: Sequence[Figures], rows: tuple[Scored, Scored]) -> str:
    """The page. rows: words and segments, for the plots."""
    levels = []
    for of_level in rows:
        own = [one for one in figures if one.level == of_level.level]
        best = _best_signal(own)
        levels.append(
            {
                "name": of_level.level,
                "figures": [one for one in own if one.group == "all"],
                "groups": [one for one in own if one.group != "all"],
                "reliability": plots.reliability(of_level, PLOTTED),
                "risk": plots.risk(of_level, [*PLOTTED, *([best] if best else [])]),
                "best": best,
            }
        )
    return render_page("calibration.html.j2", about=about, levels=levels, columns=COLUMNS, cells=cells)


def cells(one: Figures) -> list[str]:
    """Its figures as text, in the order of COLUMNS."""
    values = (one.nce, one.ece, one.auroc, one.aupr, one.aurc, one.spearman)
    return [NOTHING if value is None else f"{value:.3f}" for value in values]


def markdown_table(figures: Sequence[Figures]) -> str:
    """Raw beside calibrated, of everything and of each language and source, as Markdown."""
    lines = ["| of | group | confidence | rows | right | " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + " --- |" * (5 + len(COLUMNS)))
    for one in figures:
        if one.predictor in PLOTTED:
            group = one.key if one.group == "all" else f"{one.group} {one.key}"
            row = [f"{one.level}s", markdown(group), one.predictor, str(one.rows), f"{100 * one.right:.1f} %"]
            lines.append(f"| {' | '.join([*row, *cells(one)])} |")
    return "\n".join(lines)


def _best_signal(figures: Sequence[Figures]) -> str | None:
    """The single signal with the lowest risk over all coverages."""
    single = [one for one in figures if one.group == "all" and one.predictor not in PLOTTED and one.aurc is not None]
    return min(single, key=lambda one: one.aurc or 0.0).predictor if single else None
