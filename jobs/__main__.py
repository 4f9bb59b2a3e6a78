"""All jobs as one command: `fullcanvas JOB --config FILE section.key=value ...` is `python -m jobs.JOB ...`."""

from __future__ import annotations

import argparse
import importlib
import sys

import pipeline
from jobs import cli

JOBS = {
    "transcribe": "transcribe an archive into one table",
    "status": "see how far a run is, from anywhere, while it runs or after",
    "browse": "search and listen to transcripts in a browser",
    "plan": "plan a run, forecast its time and cost",
    "evaluate": "measure error rates and compare them with a baseline",
    "calibrate": "make confidences mean what they say, from transcripts with references",
    "select-labels": "choose transcripts to train on, and say why the others are not",
    "export": "make a training set or subtitles of transcripts",
    "train": "train an adapter on your own recordings with texts",
    "doctor": "check what would stop a run on this machine or cluster",
    "bench": "measure speed: engine, flow, planning, decoding",
    "import-model": "make one folder of a model's parts",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the job that the first word names. Returns its exit code, or 2 where there is no such job."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in JOBS:
        job = importlib.import_module(f"jobs.{words[0].replace('-', '_')}")  # one job's imports, not those of all
        return int(job.main(words[1:]))
    _parser().parse_args(words)
    return cli.EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    width = max(len(job) for job in JOBS) + 2
    lines = [f"  {job:<{width}}{about}" for job, about in JOBS.items()]
    made = cli.Parser(
        prog=cli.SCRIPT,
        usage=f"{cli.SCRIPT} JOB --config FILE section.key=value ...",
        description="\n".join(["jobs:", *lines]),
        epilog=f"`{cli.SCRIPT} JOB --help` lists the settings of a job.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"{cli.SCRIPT} {pipeline.__version__}")
    made.add_argument("job", choices=JOBS, metavar="JOB", help="one of the above")
    return made


if __name__ == "__main__":
    sys.exit(main())
