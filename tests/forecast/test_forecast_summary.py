"""The lines that jobs.plan prints: figures with their intervals, GPUs and cost where there are some, unknowns."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.forecast.forecast import Estimate, Forecast
from pipeline.forecast.summary import forecast_lines
from tests.support.archives import settings

HOURS = Estimate(1234.5, 0.01234, 99_999)


@pytest.mark.parametrize(
    ("gpus", "usd", "names"),
    [
        (0, None, ["replica hours"]),
        (0, 2.0, ["replica hours"]),
        (1, None, ["GPU hours"]),
        (1, 2.0, ["GPU hours", "cost, USD"]),
    ],
)
def test_gpus_and_cost_are_shown_where_there_are_some(gpus: float, usd: float | None, names: list[str]) -> None:
    config = settings(Path("in"), Path("out"), Path("model"), f"compute.gpus_per_replica={gpus}")
    config = config.model_copy(update={"plan": config.plan.model_copy(update={"usd_per_gpu_hour": usd})})
    figures = dict.fromkeys(("audio_hours", "decode_hours", "replica_hours", "gpu_hours", "usd", "wall_hours"), HOURS)
    lines = list(forecast_lines(Forecast(5, 60, 7, notes=["a remark"], **figures), config))
    shown = {line[:28].strip(): line[28:].split() for line in lines}
    assert [name for name in ("replica hours", "GPU hours", "cost, USD") if name in shown] == names
    assert shown["audio hours"] == ["1,234", "0.0123", "to", "99,999"]
    assert shown["wall time"] == ["1234:30:00", "0:44", "to", "99999:00:00"]
    assert lines[-1] == "note: a remark"


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    lines = list(forecast_lines(Forecast(5, 60, 0), settings(Path("in"), Path("out"), Path("model"))))
    unknown = [line[:28].strip() for line in lines if line.endswith(" unknown")]
    assert unknown == ["audio hours", "decoding, core hours", "replica hours", "wall time"]
