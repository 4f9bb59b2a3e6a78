"""Transcribe an archive: python -m jobs.transcribe --config configs/transcribe.yaml source.uri=... output.uri=..."""

from __future__ import annotations

import sys

from jobs import cli
from jobs.plan import dry_run
from pipeline.config import RunConfig


def run(config: RunConfig) -> int:
    """Transcribe, publish, show a sample. Returns 1 if units are left, or more failed than is allowed."""
    from pipeline.output.tables import sample_lines
    from pipeline.output.terminal import TABLE_ROWS, print_table, source_line, summary_line
    from pipeline.run import dead_fraction, transcribe
    from pipeline.storage.base import open_storage

    summary = transcribe(config)
    storage = open_storage(config.output.uri, create=False, config=config.storage)
    print_table(sample_lines(storage, TABLE_ROWS), summary["recordings_transcribed"])
    print(f"\n{summary_line(summary)}\n{config.output.uri}")
    changed = source_line(summary)
    if changed:
        print(changed)
    if not (summary["complete"] or config.publish):
        left = summary["units_planned"] - summary["units_committed"]
        print(
            f"{left} of {summary['units_planned']} units are not committed: run the same command again", file=sys.stderr
        )
        return 1
    if dead_fraction(summary) > config.budget.max_dead_fraction:
        print(
            f"{dead_fraction(summary):.1%} of the recordings are dead letters, "
            f"budget.max_dead_fraction allows {config.budget.max_dead_fraction:.1%}",
            file=sys.stderr,
        )
        return 1
    return int(config.plan.strict and bool(changed) and not summary["source_changes"]["taken_up"])


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("transcribe", RunConfig, run, __doc__, arguments, dry_run=dry_run)


if __name__ == "__main__":
    sys.exit(main())
