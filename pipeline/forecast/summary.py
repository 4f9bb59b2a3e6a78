"""A forecast in a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import RunConfig
from pipeline.forecast.forecast import Estimate, Forecast
from pipeline.output.terminal import clock


def forecast_lines(forecast: Forecast, config: RunConfig) -> Iterator[str]:
    """The forecast as aligned lines: a line for each figure with its interval, what it rests on, then the notes."""
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
    decoders = compute.decoders(replicas)
    yield (
        f"from {forecast.probed} of {forecast.recordings} recordings, measured on this machine; wall time with "
        f"{replicas} replica{'s' * (replicas > 1)} and {decoders} decode actor{'s' * (decoders > 1)}, without "
        "starting Ray and publishing"
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
