"""The pages of all evaluations of an output: the last one at its top, every one in reports/, with an index.

OUT/report.html, OUT/junit.xml               the last evaluation
OUT/reports/EVALUATION.html, EVALUATION.xml  every evaluation; one that is made again replaces its own
OUT/reports/NAME-RUN.html                    several models side by side
OUT/reports/index.html                       all of them, newest first
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipeline.evaluation.result import rate_of
from pipeline.evaluation.wording import interval, percent, utc
from pipeline.output.page import render_page
from pipeline.storage.base import Storage

REPORTS = "reports"
HEADERS = (("evaluation", "verdict", "evaluated", "model", "baseline", "commit"), ("rate", "95 % interval"))


def keep(storage: Storage, name: str, pages: Mapping[str, str], known: Sequence[Mapping[str, Any]]) -> None:
    """Write the pages of an evaluation, by their endings (html, xml), to reports/, and the index of all.

    known: from history.results.
    """
    for ending, text in pages.items():
        storage.put(f"{REPORTS}/{name}.{ending}", text.encode())
    keys = (key.removeprefix(f"{REPORTS}/") for key in storage.list(f"{REPORTS}/"))
    there = {key.removesuffix(".html") for key in keys if key.endswith(".html")} - {"index"}
    results = [one for one in reversed(known) if one["evaluation"] in there]
    others = there - {one["evaluation"] for one in results}
    index = render_page(
        "reports.html.j2", headers=HEADERS, rows=[_row(one) for one in results], others=sorted(others, reverse=True)
    )
    storage.put(f"{REPORTS}/index.html", index.encode())


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the index shows of one result."""
    overall = next(one for one in result["rates"] if one["group"] == "all")
    about = result["about"]
    return {
        "evaluation": result["evaluation"],
        "failed": bool(result["verdict"]["failures"]),
        "texts": [
            utc(datetime.fromisoformat(result["evaluated_at"])),
            about.get("model", "") + (f" (corrupt: {about['corrupt']})" if about.get("corrupt") else ""),
            result["baseline"] or "",
            about.get("git_commit", "")[:12],
        ],
        "figures": [percent(rate_of(overall)), interval(overall["low"], overall["high"])],
    }
