"""funnel.json and report.html: what was kept, what was dropped for which reason, and the expected error rate."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.evaluation.result import headline
from pipeline.evaluation.wording import NOTHING, interval, percent
from pipeline.labels import plots
from pipeline.labels.curve import Curve, Threshold, expected_risk, kept_by
from pipeline.labels.reasons import REASONS
from pipeline.labels.risk import Risk
from pipeline.labels.settings import DEFAULT, LabelsConfig
from pipeline.labels.tally import KEPT, Tally
from pipeline.output.page import render_page


def funnel(config: LabelsConfig, tally: Tally, curve: Curve | None, least: dict[str, Threshold]) -> dict[str, Any]:
    """The figures of funnel.json that come from the segments."""
    level = config.policy.level
    left, steps = tally.hours(), []
    for reason, meaning in REASONS.items():
        if tally.count(reason=reason):
            left -= (hours := tally.hours(reason=reason))
            step = {"reason": reason, "meaning": meaning, "segments": tally.count(reason=reason)}
            steps.append(step | {"hours": _short(hours), "hours_left": _short(left)})
    confidences = {
        name: one.confidence if (one := least.get(name, least.get(DEFAULT))) else None for name in tally.languages
    }

    def expected(names: list[str]) -> dict[str, float | None] | None:
        """The rate that the kept labels of some languages expect; without a calibration set it has no interval."""
        if (rate := tally.expected(names)) is None:
            return None
        words, ahead = sum(tally.words[name] for name in names), tally.speakers(names)
        own = kept_by(curve, least, names) if curve else None
        found = expected_risk(own, level=level, rate=rate, words=words, ahead=ahead) if own else None
        return _interval(found) or {"rate": _short(rate), "low": None, "high": None}

    languages = {
        name: {
            "metric": headline(name),
            "segments": tally.count(name),
            "segments_kept": tally.count(name, KEPT),
            "hours": _short(tally.hours(name)),
            "hours_kept": _short(tally.hours(name, KEPT)),
            "threshold": confidences[name],
            "expected": expected([name]),
            "achieved": _interval(tally.achieved(level, name)),
        }
        for name in tally.languages
    }
    return {
        "level": level,
        "segments": tally.count(),
        "segments_kept": tally.count(reason=KEPT),
        "labels": tally.labels,
        "hours": _short(tally.hours()),
        "hours_kept": _short(tally.hours(reason=KEPT)),
        "expected": expected(tally.languages),
        "achieved": _interval(tally.achieved(level)),
        "funnel": steps,
        "languages": languages,
        "splits": {name: _short(length / 3_600_000) for name, length in sorted(tally.splits.items())},
    }


def render(found: dict[str, Any]) -> str:
    """The page. found: the content of funnel.json."""
    return render_page(
        "labels.html.j2",
        found=found,
        funnel=plots.funnel(found),
        languages=plots.languages(found),
        rate=rate,
    )


def summary_lines(found: dict[str, Any]) -> list[str]:
    """What the terminal shows. found: the content of funnel.json."""
    rows = [("", "hours", "kept", "threshold", "expected", "achieved")]
    for name, one in found["languages"].items():
        least = NOTHING if one["threshold"] is None else f"{one['threshold']:.4f}"
        hours = (f"{one['hours']:.4f}", f"{one['hours_kept']:.4f}")
        rows.append((name, *hours, least, rate(one["expected"]), rate(one["achieved"])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    dropped = ", ".join(f"{step['reason']} {step['segments']}" for step in found["funnel"]) or "none"
    kept = f"{found['segments_kept']} of {found['segments']} segments"
    kept += f", {found['hours_kept']:.4f} of {found['hours']:.4f} h"
    rates = f"expected error rate {rate(found['expected'])}, achieved on references {rate(found['achieved'])}"
    lines += ["", f"kept {kept}: {rates}", f"dropped: {dropped}"]
    if unmet := [name for name, one in found["thresholds"].items() if one["confidence"] is None]:
        lines.append(
            f"no threshold meets the target: {', '.join(unmet)}. More speakers in the calibration set may help"
        )
    return lines


def rate(found: dict[str, float | None] | None) -> str:
    """An error rate with its interval, in percent."""
    return f"{percent(found['rate'])} {interval(found['low'], found['high'])}" if found else NOTHING


def _interval(found: Risk | None) -> dict[str, float | None] | None:
    return {name: _short(value) for name, value in asdict(found).items() if name != "upper"} if found else None


def _short(value: float) -> float:
    return round(value, 6)
