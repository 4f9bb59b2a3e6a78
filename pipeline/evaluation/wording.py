"""Rates, differences and times in words: the same in the report, the JUnit file and the log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline.evaluation.result import Comparison, SweepPoint

NOTHING = "–"  # where there is no figure


def percent(rate: float | None) -> str:
    """0.0504 as "5.04 %"."""
    return NOTHING if rate is None else f"{100 * rate:.2f} %"


def share(part: float | None) -> str:
    """0.95 as "95.0 %"."""
    return NOTHING if part is None else f"{100 * part:.1f} %"


def decimal(value: float | None) -> str:
    """12.345 as "12.3"."""
    return NOTHING if value is None else f"{value:.1f}"


def interval(low: float | None, high: float | None) -> str:
    """0.0471 and 0.0538 as "[4.71, 5.38]", in percent."""
    return NOTHING if low is None or high is None else f"[{100 * low:.2f}, {100 * high:.2f}]"


def points(difference: float) -> str:
    """0.0036 as "+0.36": percentage points, always signed."""
    return f"{100 * difference:+.2f}"


def probability(p: float | None) -> str:
    """Three places; what would read 0.000 is "<0.001"."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def utc(moment: datetime) -> str:
    """ "2026-11-25 03:00 UTC"; a time without zone is taken for UTC."""
    return as_utc(moment).strftime("%Y-%m-%d %H:%M UTC")


def as_utc(moment: datetime) -> datetime:
    """The same moment in UTC; a time without zone is taken for UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def finding(comparison: Comparison) -> str:
    """What a comparison shows, in a word or two."""
    if comparison.regressed:
        return "regressed"
    return "improved" if comparison.high < 0 else "no difference shown"


def comparison_line(comparison: Comparison, baseline: str | None) -> str:
    """One comparison as a sentence, with the smallest difference that would have been seen."""
    return (
        f"{comparison.language}: {comparison.metric} {percent(comparison.rate)}, {baseline or 'baseline'} "
        f"{percent(comparison.baseline_rate)}: {points(comparison.difference)} points "
        f"[{points(comparison.low)}, {points(comparison.high)}], p {probability(comparison.p)}, "
        f"Holm {probability(comparison.p_holm)}; {finding(comparison)} "
        f"(80 % power from {100 * comparison.detectable:.2f} points on)"
    )


def shortened(reasons: list[str], most: int = 3) -> list[str]:
    """At most `most` lines; the last one says how many are left out."""
    if len(reasons) <= most:
        return reasons
    return [*reasons[: most - 1], f"and {len(reasons) - most + 1} more"]


def setting_labels(points: Sequence[SweepPoint]) -> list[str]:
    """Short names: only the settings that differ, without their section where that leaves no doubt."""
    keys = list(dict.fromkeys(key for point in points for key in point.settings))
    differing = [key for key in keys if len({str(point.settings.get(key)) for point in points}) > 1] or keys
    last = [key.rsplit(".", 1)[-1] for key in differing]
    names = {key: short if last.count(short) == 1 else key for key, short in zip(differing, last, strict=True)}
    return [", ".join(f"{names[key]} {point.settings.get(key)}" for key in differing) for point in points]
