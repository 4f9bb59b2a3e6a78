"""Measure word error rates and judge them: python -m jobs.evaluate --config configs/evaluate-nightly.yaml key=value ...

Transcribes the sets (or reads finished outputs), compares them with a baseline, keeps the result for later evaluations
and writes report.html and junit.xml. Exit code 1 if the gate is closed.

models=[tiny,whisper-base] evaluates several models, each below OUT/models/, and writes one report of all, with the
differences between them. The exit code is then 1 if the gate is closed for any of them.
"""

from __future__ import annotations

import sys

from jobs import cli
from pipeline.evaluation.settings import EvaluateConfig


def run(config: EvaluateConfig) -> int:
    """Evaluate and print the rates; returns the exit code."""
    if config.models:
        return _side_by_side(config)
    from pipeline.evaluation.evaluate import run_evaluation
    from pipeline.evaluation.wording import summary_lines

    evaluation = run_evaluation(config)
    print("\n".join(summary_lines(evaluation)))
    print(f"{config.output.uri}/report.html")
    return 0 if evaluation.verdict.passed else 1


def _side_by_side(config: EvaluateConfig) -> int:
    from pipeline.evaluation.side_by_side import run_side_by_side
    from pipeline.evaluation.wording import side_by_side_lines

    found = run_side_by_side(config)
    print("\n".join(side_by_side_lines(found)))
    print(f"{config.output.uri}/report.html")
    return 0 if found.passed else 1


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("evaluate", EvaluateConfig, run, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
