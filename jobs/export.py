"""Make a training set or subtitles: python -m jobs.export export.format=NAME input.uri=OUT output.uri=SET ...

Reads an output of jobs.transcribe, or labels that were chosen of it. Training sets: nemo, lhotse, webdataset,
huggingface, kaldi. For people: srt, vtt, txt, json. The same command goes on where a stopped one has ended.
"""

from __future__ import annotations

import sys

from jobs import cli
from pipeline.export.settings import ExportConfig


def run(config: ExportConfig) -> int:
    """Export, and print what is there now. Returns 1 if more rows have no audio than export.max_lost_fraction."""
    from pipeline.export.run_export import export

    exported = export(config)
    hours = exported.figures["ms_by_split"].total() / 3_600_000
    print(f"{exported.rows:,} rows, {hours:,.3f} hours, {exported.dropped.rows.total():,} dropped")
    print(f"{config.output.uri.rstrip('/')}/DATA_CARD.md")
    if exported.problems:
        print(f"{len(exported.problems):,} rows have no audio: {config.output.uri.rstrip('/')}/problems.jsonl")
    return int(exported.lost_fraction > config.export.max_lost_fraction)


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("export", ExportConfig, run, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
