"""The report of the loop: error rates by the kind of recording, and the tables."""

from __future__ import annotations

import json
from typing import Any

from infra.tiny import loop_report


def row(kind: str, reference: str, text: str | None, *, kept: bool) -> dict[str, Any]:
    about = {"language": "en", "text": text, "reference": reference, "kept": kept}
    return about | {"recording_id": reference, "metadata": json.dumps({"kind": kind})}


ROWS = [
    row("foreign", "notte domani", "ninety", kept=False),
    row("good", "red monday", "red monday", kept=True),
    row("good", "blue", "blue may june", kept=False),
    row("cut", "ten july", "ten", kept=True),
    row("cut", "two", None, kept=False),
]


def test_error_rates_are_of_all_labels_and_of_the_kept() -> None:
    found = loop_report.by_kind(ROWS)
    assert list(found) == ["good", "cut", "foreign", "together"]
    assert found["good"] == {"recordings": 2, "kept": 1, "rate": 2 / 3, "rate_kept": 0.0}
    assert found["cut"] == {"recordings": 2, "kept": 1, "rate": 2 / 3, "rate_kept": 0.5}
    assert found["foreign"] == {"recordings": 1, "kept": 0, "rate": 1.0, "rate_kept": None}
    assert found["together"] == {"recordings": 5, "kept": 2, "rate": 6 / 8, "rate_kept": 1 / 4}


def difference(model: str, other: str) -> dict[str, Any]:
    named = {"model": model, "other": other, "language": "all", "metric": "WER", "recordings": 9, "left_out": 0}
    rates = {"blocks": 4, "rate": 0.3, "other_rate": 0.5, "difference": -0.2, "low": -0.25, "high": -0.125}
    return named | rates | {"p": 0.001, "p_holm": 0.002}


def test_the_tables_have_the_differences_of_the_selection_alone() -> None:
    student = {"labels": 7, "hours": 0.5, "label_rate": 0.04}
    rate = {"rate": 0.3, "low": 0.25, "high": 0.35}
    report = {
        "commit": "abc",
        "seconds": {"train": 100, "evaluate": 80},
        "expected": {"rate": 0.02, "low": 0.01, "high": 0.03},
        "kinds": loop_report.by_kind(ROWS),
        "students": {"all": student, "selected": student},
        "rates": {"teacher": rate, "all": rate, "selected": rate},
        "differences": [difference("selected", "teacher"), difference("selected", "all"), difference("all", "teacher")],
    }
    text = loop_report.markdown(report)
    assert "| good | 2 | 66.67 % | 1 | 0.00 % |" in text
    assert "| teacher |  |  |  | 30.00 % | 25.00 % to 35.00 % |" in text
    assert "| selected | 7 | 0.50 | 4.00 % | 30.00 % | 25.00 % to 35.00 % |" in text
    assert [line.split(" | ")[:2] for line in text.splitlines() if "-20.00" in line] == [
        ["| selected", "teacher"],
        ["| selected", "all"],
    ]
    assert "All steps: 3 minutes; commit abc." in text
