"""Plan a run and forecast it: python -m jobs.plan --config configs/transcribe.yaml source.uri=... output.uri=...

Lists the source, fixes its work units in OUT/_run/plan.parquet (which jobs.transcribe then uses) and hears a few
recordings on this machine to tell the hours, the time and the cost of what is left: OUT/_run/forecast.json.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Set

from jobs import cli
from pipeline.config import RunConfig
from pipeline.forecast.forecast import Estimate, Forecast
from pipeline.output.terminal import clock
from pipeline.storage.base import Storage


def run(config: RunConfig) -> int:
    """Make the plan, unless the output has one; say what it holds, how much of it is done and what is to come."""
    from pipeline.output.commit import committed_units
    from pipeline.run import prepare

    storage = prepare(config)
    return show(config, storage, committed_units(storage))


def dry_run(config: RunConfig) -> int:
    """plan and forecast only, and leave the output as it is: nothing is transcribed, nothing is written to output.uri
    (jobs.plan does the same and writes the plan)"""
    from pipeline.run import prepared_copy

    with prepared_copy(config) as (storage, committed):
        return show(config, storage, committed)


def show(config: RunConfig, storage: Storage, committed: Set[str]) -> int:
    """Print the plans of `storage` and the forecast of what the `committed` units leave; returns the exit code, 0."""
    from pipeline.forecast.probe import make_forecast
    from pipeline.planning.plan import plan_names, plan_size

    print(f"{'plan':<12}{'units':>10}{'recordings':>12}{'declared hours':>16}{'gigabytes':>11}")
    for name in plan_names(storage):
        size = plan_size(storage, name)
        print(f"{name:<12}{size.units:>10}{size.recordings:>12}{size.seconds / 3600:>16.2f}{size.bytes / 1e9:>11.3f}")
    print(f"{len(committed)} units are committed\n", flush=True)
    for line in forecast_lines(make_forecast(config, storage, committed), config):
        print(line)
    print(config.output.uri)
    return 0


def forecast_lines(forecast: Forecast, config: RunConfig) -> Iterator[str]:
    """The forecast as aligned lines: what is left, then a figure and its interval each, then the notes."""
    compute = config.compute
    yield f"{f'left: {forecast.units} units':<28}{'forecast':>12}  {forecast.coverage:.0%} interval"
    on_gpus = compute.gpus_per_replica > 0
    yield _line("audio hours", forecast.audio_hours)
    yield _line("decoding, core hours", forecast.decode_hours)
    yield _line("GPU hours", forecast.gpu_hours) if on_gpus else _line("replica hours", forecast.replica_hours)
    wall = forecast.wall_hours
    shown = None if wall is None else [clock(hours * 3600) for hours in (wall.value, wall.low, wall.high)]
    yield f"{'wall time':<28}{shown[0]:>12}  {shown[1]} to {shown[2]}" if shown else _line("wall time", None)
    if config.plan.usd_per_gpu_hour is not None and on_gpus:
        yield _line("cost, USD", forecast.usd)
    replicas = max(compute.replicas_min, compute.replicas_max)
    yield (
        f"from {forecast.probed} of {forecast.recordings} recordings, heard on this machine; wall time with "
        f"{replicas} replica{'s' * (replicas > 1)} and {compute.decode_actors} decode "
        f"actor{'s' * (compute.decode_actors > 1)}, without the start of Ray and the publishing"
    )
    for note in forecast.notes:
        yield f"note: {note}"


def _line(name: str, figure: Estimate | None) -> str:
    if figure is None:
        return f"{name:<28}{'unknown':>12}"
    return f"{name:<28}{_number(figure.value):>12}  {_number(figure.low)} to {_number(figure.high)}"


def _number(value: float) -> str:
    """Three digits, and all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("plan", RunConfig, run, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
