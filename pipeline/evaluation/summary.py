"""An evaluation in a few lines for the terminal: rates with interval and coverage, comparisons, why it failed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from pipeline.evaluation.result import Evaluation
from pipeline.evaluation.wording import NOTHING, comparison_line, interval, percent, setting_labels, shortened
from pipeline.output.terminal import plain

GROUPS = ("all", "set", "language")
HEADER = ("", "", "metric", "rate", "95 % interval", "sub", "del", "ins", "recordings", "coverage")
LEFT = 3  # columns that are text


def summary_lines(evaluation: Evaluation) -> list[str]:
    """One string per line, without control characters. If it failed, the last lines (three at most) say why."""
    sets = [rates for rates in evaluation.rates if rates.group == "set"]
    alone = len(sets) == sum(rates.group == "language" for rates in evaluation.rates)  # a set for each language
    groups = [group for group in GROUPS if not (alone and group == "language")]
    shown = [rates for group in groups for rates in evaluation.rates if rates.group == group]
    rows = [
        (
            "" if rates.group == "all" else rates.group,
            "all" if rates.group == "all" else plain(rates.key),
            rates.metric,
            percent(rates.counts.rate),
            interval(rates.low, rates.high),
            *(str(n) for n in (rates.counts.substitutions, rates.counts.deletions, rates.counts.insertions)),
            f"{rates.transcribed} of {rates.recordings}",
            NOTHING if rates.coverage is None else f"{100 * rates.coverage:.1f} %",
        )
        for rates in shown
    ]
    lines = [*_aligned([HEADER, *rows]), *_sweep(evaluation)]
    lines += [plain(comparison_line(comparison, evaluation.baseline)) for comparison in evaluation.comparisons]
    lines += [f"warning: {plain(warning)}" for warning in evaluation.verdict.warnings]
    if evaluation.verdict.passed:
        return [*lines, "passed"]
    return [*lines, *(f"FAILED: {plain(reason)}" for reason in shortened(list(evaluation.verdict.failures)))]


def _sweep(evaluation: Evaluation) -> list[str]:
    """Error rate beside speed of every combination of settings; nothing without a sweep."""
    if not evaluation.sweep:
        return []
    header = ("", "settings", "", "rate", "95 % interval", "pipeline_rtfx", "steps")
    rows = [
        (
            "sweep",
            plain(label),
            point.overall.metric,
            percent(point.overall.counts.rate),
            interval(point.overall.low, point.overall.high),
            NOTHING if point.rtfx is None else f"{point.rtfx:.1f}",
            NOTHING if point.steps is None else f"{point.steps:.1f}",
        )
        for point, label in zip(evaluation.sweep, setting_labels(evaluation.sweep), strict=True)
    ]
    return ["", *_aligned([header, *rows]), ""]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell on a terminal; text to the left, figures to the right."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blank = " " * (width - cell_len(cell))
            cells.append(cell + blank if index < LEFT else blank + cell)
        lines.append("  ".join(cells).rstrip())
    return lines
