"""Plan a run and forecast it: python -m jobs.plan --config configs/transcribe.yaml source.uri=... output.uri=...

Lists the source and writes its work units to OUT/_run/plan.parquet, which jobs.transcribe then uses. Transcribes a
small random sample on this machine and forecasts audio hours, time and cost of what is left: OUT/_run/forecast.json.
"""

from __future__ import annotations

import sys
from collections.abc import Set

from jobs import cli
from pipeline.config import RunConfig
from pipeline.storage.base import Storage


def run(config: RunConfig) -> int:
    """Make the plan unless the output has one; print its size, what is committed, and the forecast of what is left."""
    from pipeline.output.commit import committed_units
    from pipeline.run import prepare

    storage = prepare(config)
    return show(config, storage, committed_units(storage))


def index(config: RunConfig) -> int:
    """Before planning, write beside each .tar of the source that has none an index of its members (.tar.idx.json).

    Later listings read the index instead of the archive.
    """
    from pipeline.sources.formats import write_indexes
    from pipeline.storage.base import apply

    apply(config.storage)
    written = [is_new for _, is_new in write_indexes(config.source)]
    print(f"{sum(written)} indexes written for {len(written)} archives", flush=True)
    return run(config)


def dry_run(config: RunConfig) -> int:
    """Only plan and forecast: nothing is transcribed, nothing is written to output.uri (jobs.plan writes the plan)."""
    from pipeline.run import prepared_copy

    with prepared_copy(config) as (storage, committed):
        return show(config, storage, committed)


def show(config: RunConfig, storage: Storage, committed: Set[str]) -> int:
    """Print the plans of `storage` and the forecast of what the `committed` units leave; return the exit code."""
    from pipeline.forecast.probe import make_forecast
    from pipeline.forecast.summary import forecast_lines
    from pipeline.planning.plan import plan_names, plan_size
    from pipeline.planning.update import last_changes

    print(f"{'plan':<12}{'units':>10}{'recordings':>12}{'declared hours':>16}{'gigabytes':>11}")
    for name in plan_names(storage):
        size = plan_size(storage, name)
        print(f"{name:<12}{size.units:>10}{size.recordings:>12}{size.seconds / 3600:>16.2f}{size.bytes / 1e9:>11.3f}")
    print(f"{len(committed)} units are committed\n", flush=True)
    for line in forecast_lines(make_forecast(config, storage, committed), config):
        print(line)
    found = last_changes(storage)
    if found:
        print(f"source: {found}")
    print(config.output.uri)
    return int(config.plan.strict and bool(found) and not found.taken_up)


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("plan", RunConfig, run, __doc__, arguments, instead={"--index": index})


if __name__ == "__main__":
    sys.exit(main())
