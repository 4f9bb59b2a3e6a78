"""The Markdown summary for CI systems."""

from __future__ import annotations

from pipeline.evaluation.result import Differing, Verdict
from pipeline.evaluation.summary import summary_markdown
from tests.support.evaluated import made_up_evaluation, made_up_rows

ROWS = made_up_rows(per_language=20)


def test_a_failed_night_says_why_first_and_has_rates_and_differences() -> None:
    night = made_up_evaluation(ROWS, differing=[Differing("denoise.max_steps", "7", "a|b")])
    lines = summary_markdown(night)
    assert lines[0] == "## FAILED: nightly-2026-11-25"
    assert lines[2].startswith("- **failed**: de: WER 16.00 %")
    assert lines[3].startswith("- warning: en: the upper bound")
    overall = next(one for one in night.rates if one.group == "all").counts.rate
    assert overall is not None
    assert any(line.startswith(f"| all | all | WER | {100 * overall:.2f} % |") for line in lines)
    assert "| de | regressed | +2.00 | +1.20 to +2.80 | 0.016 | 16.00 %, 14.00 % | 58 |" in lines
    assert lines[-1] == "| denoise.max\\_steps | 7 | a\\|b |"


def test_a_first_night_has_only_rates() -> None:
    lines = summary_markdown(made_up_evaluation(ROWS, comparisons=[], baseline=None, verdict=Verdict()))
    assert lines[0] == "## Passed: nightly-2026-11-25"
    assert [line for line in lines if line.startswith("#")] == [lines[0], "### Rates"]
