"""An evaluation as Markdown that GitHub and other CI systems show: the verdict, rates, differences, warnings."""

from __future__ import annotations

from pipeline.evaluation.result import Evaluation
from pipeline.evaluation.side_by_side_report import between, table_lines
from pipeline.evaluation.wording import GROUPS, finding, percent, points, probability, share
from pipeline.output.page import markdown

RATES = ("group", "key", "metric", "error rate", "95 % interval", "coverage", "recordings")
DIFFERENCES = ("language", "finding", "difference", "interval", "p after Holm", "rates", "recordings")
DIFFERING = ("setting", "here", "baseline")


def summary_markdown(evaluation: Evaluation) -> list[str]:
    """The summary, one string per line. Text from outside is escaped."""
    lines = [f"## {'Passed' if evaluation.verdict.passed else 'FAILED'}: {markdown(evaluation.evaluation)}", ""]
    lines += [f"- **failed**: {markdown(reason)}" for reason in evaluation.verdict.failures]
    lines += [f"- warning: {markdown(warning)}" for warning in evaluation.verdict.warnings]
    rates = [
        (
            one.group,
            one.key,
            one.metric,
            percent(one.counts.rate),
            between(percent, one.low, one.high),
            share(one.coverage),
            str(one.recordings),
        )
        for group in GROUPS
        for one in evaluation.rates
        if one.group == group
    ]
    compared = [
        (
            one.language,
            finding(one),
            points(one.difference),
            between(points, one.low, one.high),
            probability(one.p_holm),
            f"{percent(one.rate)}, {percent(one.baseline_rate)}",
            str(one.recordings),
        )
        for one in evaluation.comparisons
    ]
    changed = [(one.name, one.here, one.there) for one in evaluation.differing]
    for title, header, rows in (
        ("Rates", RATES, rates),
        (f"Against {markdown(evaluation.baseline or '')}, in percentage points", DIFFERENCES, compared),
        ("What differs from the baseline", DIFFERING, changed),
    ):
        if rows:
            lines += ["", f"### {title}", "", *table_lines(header, rows)]
    return lines
