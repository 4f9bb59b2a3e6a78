"""Rates, differences, times and whole evaluations in words: the same in report, JUnit file, log and terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.cells import cell_len

from pipeline.evaluation.result import Comparison, Evaluation, SideBySide, SweepPoint
from pipeline.output.terminal import plain

NOTHING = "–"  # instead of a figure that does not exist
GROUPS = ("all", "set", "language")
HEADER = ("", "", "metric", "rate", "95 % interval", "sub", "del", "ins", "recordings", "coverage")
LEFT = 3  # columns of text


def percent(rate: float | None) -> str:
    """0.0504 as "5.04 %"."""
    return NOTHING if rate is None else f"{100 * rate:.2f} %"


def share(part: float | None) -> str:
    """0.95 as "95.0 %"."""
    return NOTHING if part is None else f"{100 * part:.1f} %"


def decimal(value: float | None) -> str:
    """12.345 as "12.3"."""
    return NOTHING if value is None else f"{value:.1f}"


def third(value: float | None) -> str:
    """0.0471 as "0.047"."""
    return NOTHING if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """0.0471 and 0.0538 as "[4.71, 5.38]", in percent."""
    return NOTHING if low is None or high is None else f"[{100 * low:.2f}, {100 * high:.2f}]"


def points(difference: float) -> str:
    """0.0036 as "+0.36": percentage points, always signed."""
    return f"{100 * difference:+.2f}"


def probability(p: float | None) -> str:
    """Three decimal places; "<0.001" instead of 0.000."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def utc(moment: datetime) -> str:
    """As "2026-11-25 03:00 UTC"; a time without a zone is UTC."""
    return as_utc(moment).strftime("%Y-%m-%d %H:%M UTC")


def as_utc(moment: datetime) -> datetime:
    """The same moment in UTC; a time without a zone is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def finding(comparison: Comparison) -> str:
    """What a comparison shows, in a word or two."""
    if comparison.regressed:
        return "regressed"
    return "improved" if comparison.high < 0 else "no difference shown"


def comparison_line(comparison: Comparison, baseline: str | None) -> str:
    """One comparison as a sentence, with the smallest difference that it could have shown."""
    return (
        f"{comparison.language}: {comparison.metric} {percent(comparison.rate)}, {baseline or 'baseline'} "
        f"{percent(comparison.baseline_rate)}: {points(comparison.difference)} points "
        f"[{points(comparison.low)}, {points(comparison.high)}], p {probability(comparison.p)}, "
        f"Holm {probability(comparison.p_holm)}; {finding(comparison)} "
        f"(80 % power from {100 * comparison.detectable:.2f} points on)"
    )


def shortened(reasons: list[str], most: int = 3) -> list[str]:
    """At most `most` lines; if some are left out, the last line says how many."""
    if len(reasons) <= most:
        return reasons
    return [*reasons[: most - 1], f"and {len(reasons) - most + 1} more"]


def setting_labels(points: Sequence[SweepPoint]) -> list[str]:
    """Short names of the points: only the settings that differ, without their section where that is unambiguous."""
    keys = list(dict.fromkeys(key for point in points for key in point.settings))
    differing = [key for key in keys if len({str(point.settings.get(key)) for point in points}) > 1] or keys
    last = [key.rsplit(".", 1)[-1] for key in differing]
    names = {key: short if last.count(short) == 1 else key for key, short in zip(differing, last, strict=True)}
    return [", ".join(f"{names[key]} {point.settings.get(key)}" for key in differing) for point in points]


def summary_lines(evaluation: Evaluation) -> list[str]:
    """The evaluation for the terminal, one string per line, without control characters.

    Rates, sweep, comparisons and warnings; then "passed", or up to three lines that say why it failed.
    """
    sets = [rates for rates in evaluation.rates if rates.group == "set"]
    languages = [rates for rates in evaluation.rates if rates.group == "language"]
    groups = [group for group in GROUPS if group != "language" or len(sets) != len(languages)]  # a set per language
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
    lines = [*_aligned([HEADER, *rows]), *_damaged(evaluation), *_sweep(evaluation)]
    lines += [plain(comparison_line(comparison, evaluation.baseline)) for comparison in evaluation.comparisons]
    if evaluation.differing:
        changed = "; ".join(f"{one.name} {one.here} (there: {one.there})" for one in evaluation.differing)
        lines.append(plain(f"differs from {evaluation.baseline}: {changed}"))
    lines += [f"warning: {plain(warning)}" for warning in evaluation.verdict.warnings]
    if evaluation.verdict.passed:
        return [*lines, "passed"]
    return [*lines, *(f"FAILED: {plain(reason)}" for reason in shortened(list(evaluation.verdict.failures)))]


def side_by_side_lines(found: SideBySide) -> list[str]:
    """Several models for the terminal, one string per line, without control characters."""
    header = ("model", "", "", "rate", "95 % interval", "pipeline_rtfx", "processor_rtfx", "ECE", "AUROC")
    rows: list[tuple[str, ...]] = [header]
    for name, one in found.evaluations.items():
        overall = next(rates for rates in one.rates if rates.group == "all")
        words = next(iter(one.words), None)
        known = (percent(overall.counts.rate), interval(overall.low, overall.high))
        speeds = (decimal(one.speed.rtfx), decimal(one.speed.processor_rtfx))
        quality = (third(words.ece), third(words.auroc)) if words else (NOTHING, NOTHING)
        rows.append((plain(name), "", overall.metric, *known, *speeds, *quality))
    lines = _aligned(rows)
    lines += [
        f"{plain(one.model)} minus {plain(one.other)}, {plain(one.language)}: {points(one.difference)} points "
        f"[{points(one.low)}, {points(one.high)}], p {probability(one.p_holm)} after Holm"
        for one in found.differences
    ]
    for name, one in found.evaluations.items():
        lines += [f"FAILED: {plain(name)}: {plain(reason)}" for reason in shortened(list(one.verdict.failures))]
    return lines


def _damaged(evaluation: Evaluation) -> list[str]:
    """How many recordings were not heard whole; no line if there are none."""
    damaged = sum(rates.damaged for rates in evaluation.rates if rates.group == "all")
    text = f"{damaged} damaged recordings: what was not heard of them counts as deletions"
    return [text] if damaged else []


def _sweep(evaluation: Evaluation) -> list[str]:
    """Error rate and speed of every combination of settings; no lines without a sweep."""
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
    """Columns as wide as their widest cell on a terminal; text is aligned left, figures right."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blank = " " * (width - cell_len(cell))
            cells.append(cell + blank if index < LEFT else blank + cell)
        lines.append("  ".join(cells).rstrip())
    return lines
