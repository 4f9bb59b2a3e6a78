"""The report of several models: every figure is there, in HTML, Markdown and the terminal."""

from __future__ import annotations

import re
from dataclasses import replace

from pipeline.evaluation.side_by_side_report import rate_rows, render, report_lines
from pipeline.evaluation.wording import side_by_side_lines
from tests.support.evaluated import made_up_side_by_side

FOUND = made_up_side_by_side("tiny", "whisper-base", "third")


def test_the_page_and_the_markdown_have_the_same_figures() -> None:
    page, text = render(FOUND), "\n".join(report_lines(FOUND))
    cells = set(re.findall(r"<td[^>]*>(?:<b>)?([^<]+)", page))
    shown = {
        cell.strip() for line in text.splitlines() if line.startswith("| ") for cell in line.strip("| ").split("|")
    }
    assert {"-4.00", "0.010", "15.0", "7.5", "20.0", "0.050", "–"} <= cells & shown
    for title in ("Models", "Rates", "Differences", "Confidence of words"):
        assert f"<h2>{title}</h2>" in page
        assert f"## {title}" in text
    assert "tiny failed: de: no rate to compare with its ceiling of 9.00 %" in text
    assert "tiny failed" in page
    link = "models/whisper-base/reports/nightly-2026-11-25.html"
    assert f'href="{link}"' in page
    assert f'href="../{link}"' in render(FOUND, "../")


def test_sets_are_rows_only_where_they_are_not_the_languages() -> None:
    """Every language here has one set; with a further set of one of them, all are shown."""
    assert {group for group, *_ in rate_rows(FOUND)} == {"language"}
    first = FOUND.evaluations["tiny"]
    one = next(rates for rates in first.rates if rates.group == "set")
    more = replace(first, rates=[*first.rates, replace(one, key="other en")])
    rows = list(rate_rows(replace(FOUND, evaluations={"tiny": more})))
    assert [key for group, key, *_ in rows if group == "set"] == [
        "test-clean en",
        "fleurs de",
        "fleurs hi",
        "fleurs zh",
        "other en",
    ]


def test_every_difference_names_both_models() -> None:
    lines = side_by_side_lines(FOUND)
    assert "whisper-base minus tiny, de: -4.00 points [-5.00, -3.00], p 0.010 after Holm" in lines
    assert sum(" minus " in line for line in lines) == 3 * 5
    assert lines[-1] == "FAILED: tiny: de: no rate to compare with its ceiling of 9.00 %"


def test_names_from_outside_stay_text() -> None:
    found = replace(FOUND, name="<script>x</script>|", differences=[replace(FOUND.differences[0], language="<b>a|b")])
    assert "<script>" not in render(found)
    text = "\n".join(report_lines(found))
    assert "<script>" not in text
    assert "&lt;b&gt;a\\|b" in text
