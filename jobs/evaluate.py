"""Measure word error rates and judge them: python -m jobs.evaluate --config configs/evaluate-nightly.yaml key=value ...

Transcribes the sets (or reads finished outputs), compares them with a baseline, keeps the result for later evaluations
and writes report.html and junit.xml. Exit code 1 if the gate is closed.

models=[tiny,whisper-base] evaluates several models, each below OUT/models/, and writes one report of all, with the
differences between them. The exit code is then 1 if the gate is closed for any of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs import cli
from pipeline.config import ConfigError
from pipeline.evaluation.settings import EvaluateConfig


def run(config: EvaluateConfig, summary: str | None = None) -> int:
    """Evaluate and print the rates; returns the exit code. summary: a file for them as Markdown."""
    try:
        if summary:  # an error before hours of work, which leave no empty file where they end early
            is_new = not Path(summary).exists()
            Path(summary).open("a", encoding="utf-8").close()
            if is_new:
                Path(summary).unlink()
    except OSError as err:
        raise ConfigError(f"--summary: {summary}: {err.strerror}") from None
    if config.models:
        from pipeline.evaluation.side_by_side import run_side_by_side
        from pipeline.evaluation.side_by_side_report import report_lines
        from pipeline.evaluation.wording import side_by_side_lines

        found = run_side_by_side(config)
        shown, text, passed = side_by_side_lines(found), report_lines(found), found.passed
    else:
        from pipeline.evaluation.evaluate import run_evaluation
        from pipeline.evaluation.summary import summary_markdown
        from pipeline.evaluation.wording import summary_lines

        evaluation = run_evaluation(config)
        shown, text, passed = summary_lines(evaluation), summary_markdown(evaluation), evaluation.verdict.passed
    print("\n".join(shown))
    print(f"{config.output.uri}/report.html")
    if summary:
        Path(summary).write_text("\n".join([*text, ""]), encoding="utf-8")
    return 0 if passed else 1


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    files = {"--summary": "write verdict, rates and differences as Markdown, for the summary of a CI system"}
    return cli.main("evaluate", EvaluateConfig, run, __doc__, arguments, files=files)


if __name__ == "__main__":
    sys.exit(main())
