"""Choose pseudo-labels: python -m jobs.select_labels --config configs/labels.yaml transcripts=OUT output.uri=LABELS ...

Reads an output of jobs.transcribe, keeps the segments that the policy is sure of, and says of every other one why not.
Writes LABELS/labels/part-*.parquet, funnel.json, report.html, audit.csv and audit.html. audit.verdicts=verdicts.csv,
saved by audit.html, selects nothing: it gives the error rate that people found, and writes it to audit.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from jobs import cli
from pipeline.labels.settings import LabelsConfig


def run(config: LabelsConfig) -> int:
    """Select, and print what is kept; returns 0."""
    if config.audit.verdicts is not None:
        return _judge(config, Path(config.audit.verdicts))
    from pipeline.export.clips import write_clips
    from pipeline.labels.audit import CLIPS
    from pipeline.labels.report import summary_lines
    from pipeline.labels.selection import run_selection
    from pipeline.storage.base import open_storage

    selection = run_selection(config)
    print("\n".join(summary_lines(selection.funnel)))
    print(f"{config.output.uri.rstrip('/')}/report.html")
    if config.audit.audio and selection.audited:
        transcripts = open_storage(selection.funnel["transcripts"], create=False, config=config.storage)
        target = open_storage(config.output.uri, config=config.storage)
        for line in write_clips(target, CLIPS, transcripts, selection.audited):
            print(f"audit: {line['recording_id']}: {line['reason']}: {line['error']}", file=sys.stderr)
        print(f"{config.output.uri.rstrip('/')}/audit.html")
    return 0


def _judge(config: LabelsConfig, path: Path) -> int:
    from pipeline.evaluation.wording import interval, percent
    from pipeline.labels.verdicts import audited_risk, read_verdicts
    from pipeline.storage.base import open_storage

    rows, missing = read_verdicts(path)
    found = audited_risk(rows, config.policy.level)
    about = {"labels": len(rows), "level": config.policy.level, **asdict(found), "without_verdict": missing}
    target = open_storage(config.output.uri, config=config.storage)
    target.put("audit.json", json.dumps(about, indent=1).encode() + b"\n")
    labels = "1 label" if len(rows) == 1 else f"{len(rows)} labels"
    print(f"{labels}: error rate {percent(found.rate)} {interval(found.low, found.high)}")
    if missing:
        print(f"without a verdict, so not in it: {', '.join(missing)}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("select_labels", LabelsConfig, run, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
