"""Transcribe an archive: python -m jobs.transcribe --config configs/transcribe.yaml source.uri=... output.uri=..."""

from __future__ import annotations

import logging
import sys
from typing import Any

from jobs import cli
from jobs.plan import dry_run
from pipeline.config import RunConfig, public

log = logging.getLogger(__name__)


def run(config: RunConfig) -> int:
    """Transcribe, publish, show a sample. Returns 1 if units are left, or more failed than is allowed.

    A share (run.partition) that leaves units to other shares publishes nothing and shows no sample.

    It returns 3 if too many recordings in a row are missing.
    """
    # At once: the imports take some seconds.
    log.info("transcribing %s to %s", public(config.source.uri), public(config.output.uri))
    from pipeline.output.budget import OverBudget, over_budget
    from pipeline.output.tables import sample_lines
    from pipeline.output.terminal import TABLE_ROWS, print_table, source_line, summary_line
    from pipeline.run import dead_fraction, transcribe
    from pipeline.storage.base import open_storage

    stopped = None
    try:
        summary = transcribe(config)
    except OverBudget as err:
        stopped, summary = err, err.summary
    if "units_left_to_others" in summary:
        return _share_done(summary)
    storage = open_storage(config.output.uri, create=False, config=config.storage)
    print_table(sample_lines(storage, TABLE_ROWS), summary["recordings_transcribed"])
    print(f"\n{summary_line(summary)}\n{config.output.uri}")
    changed = source_line(summary)
    if changed:
        print(changed)
    if stopped:
        cli.say(stopped)
        return stopped.code
    if not (summary["complete"] or config.publish):
        left = summary["units_planned"] - summary["units_committed"]
        cli.say(f"{left} of {summary['units_planned']} units are not committed: run the same command again")
        return 1
    if dead_fraction(summary) > config.budget.max_dead_fraction:
        cli.say(over_budget(dead_fraction(summary), config.budget))
        return 1
    return int(config.plan.strict and bool(changed) and not summary["source_changes"]["taken_up"])


def _share_done(left: dict[str, Any]) -> int:
    """Say what is left after a share that is not the last one."""
    name, own = f"share {left['partition']}", left["units_left"]
    print(f"{name}: done; {left['units_left_to_others']} units of other shares are left; whoever ends last publishes")
    if own:
        cli.say(f"{name}: {own} of its units are not committed: run the same command again")
    return int(own > 0)


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("transcribe", RunConfig, run, __doc__, arguments, instead={"--dry-run": dry_run})


if __name__ == "__main__":
    sys.exit(main())
