"""Plan a run without doing it: python -m jobs.plan --config configs/transcribe.yaml source.uri=... output.uri=..."""

from __future__ import annotations

import sys

from jobs import cli
from pipeline.config import RunConfig


def run(config: RunConfig) -> int:
    """Make the plan, unless the output has one, and say what it holds and how much of it is done."""
    from pipeline.commit import committed_units
    from pipeline.plan import plan_names, plan_size
    from pipeline.run import prepare

    storage = prepare(config)
    print(f"{'plan':<12}{'units':>10}{'recordings':>12}{'declared hours':>16}{'gigabytes':>11}")
    for name in plan_names(storage):
        size = plan_size(storage, name)
        print(f"{name:<12}{size.units:>10}{size.recordings:>12}{size.seconds / 3600:>16.2f}{size.bytes / 1e9:>11.3f}")
    print(f"{len(committed_units(storage))} units are committed\n{config.output.uri}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.main(RunConfig, run, __doc__))
