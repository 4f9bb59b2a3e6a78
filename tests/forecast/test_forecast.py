"""Tests of the forecast's arithmetic: sums, ratios, intervals that contain the truth, wall time, cost."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ComputeConfig
from pipeline.forecast.forecast import Estimate, Forecast, Kind, Measured, Total, estimate_run, kind_of
from tests.support.outputs import ref


def made(
    totals: dict[Kind, Total],
    measured: Sequence[Measured] = (),
    *,
    units: int = 1_000,
    usd: float | None = None,
    **compute: float,
) -> Forecast:
    return estimate_run(totals, measured, units=units, compute=ComputeConfig(**compute), usd_per_gpu_hour=usd)  # type: ignore[arg-type]


def steady(number: int, *, kind: Kind = "seconds", decode: float = 0.01, replica: float = 0.1) -> list[Measured]:
    """Recordings of an hour; actors take these parts of its time."""
    return [Measured(kind, 3600, 3600, 3600 * decode, 3600 * replica)] * number


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seconds": 12.5}, ("seconds", 12.5)),
        ({"seconds": 99.0, "start_ms": 1_000, "end_ms": 3_500}, ("seconds", 2.5)),
        ({"seconds": None}, ("bytes", 1000.0)),
        ({"seconds": 0.0}, ("bytes", 1000.0)),
        ({"seconds": math.inf}, ("bytes", 1000.0)),
        ({"seconds": math.nan}, ("bytes", 1000.0)),
        ({"seconds": None, "size": 0}, ("number", 1.0)),
    ],
)
def test_a_length_is_known_by_seconds_else_by_bytes_else_by_number(
    changes: dict[str, float | None], expected: tuple[str, float]
) -> None:
    assert kind_of(ref(1, **changes)) == expected


def test_declared_seconds_are_summed_exactly() -> None:
    assert made({"seconds": Total(4, 7200.0)}).audio_hours == Estimate(2.0, 2.0, 2.0)
    assert made({"seconds": Total(4, 7200.0)}).replica_hours is None


def test_undeclared_lengths_follow_bytes_or_number() -> None:
    sized = [Measured("bytes", 1_000, 10, 1, 2), Measured("bytes", 3_000, 30, 3, 6)]  # 100 bytes a second
    counted = [Measured("number", 1, 60, 6, 12), Measured("number", 1, 120, 12, 24)]  # 90 s each
    found = made({"seconds": Total(9, 3600), "bytes": Total(50, 360_000), "number": Total(40, 40)}, sized + counted)
    assert found.audio_hours is not None
    assert found.audio_hours.value == pytest.approx(1 + 1 + 1)
    assert found.recordings == 99
    assert found.decode_hours is None  # nothing with declared seconds was measured: its speed is unknown


def test_work_scales_with_the_whole_by_hand() -> None:
    found = made({"seconds": Total(100, 100 * 3600)}, steady(5), replicas_max=2, decode_actors=1)
    assert found.decode_hours is not None
    assert found.replica_hours is not None
    assert found.wall_hours is not None
    assert found.decode_hours.value == pytest.approx(1.0)
    assert found.replica_hours.value == pytest.approx(10.0)
    assert found.wall_hours.value == pytest.approx(5.0)
    assert found.wall_hours.low < 5.0 < found.wall_hours.high
    assert (found.gpu_hours, found.usd, found.notes) == (None, None, [])


def test_the_slower_stage_decides_the_time_and_is_named() -> None:
    slow = steady(5, decode=0.4, replica=0.1)
    totals: dict[Kind, Total] = {"seconds": Total(100, 100 * 3600)}
    found = made(totals, slow, replicas_max=2, decode_actors=4, gpus_per_replica=1)
    assert found.wall_hours is not None
    assert found.wall_hours.value == pytest.approx(10.0)
    assert "replicas wait 50% of the time" in found.notes[0]
    assert "compute.decode_actors=8" in found.notes[0]
    enough = made(totals, slow, replicas_max=2, decode_actors=8, gpus_per_replica=1)
    assert enough.wall_hours is not None
    assert enough.wall_hours.value == pytest.approx(5.0)
    assert enough.notes == []


def test_no_more_actors_work_than_there_are_units() -> None:
    found = made({"seconds": Total(5, 5 * 3600)}, steady(5), units=2, replicas_max=8, decode_actors=8)
    assert found.wall_hours is not None
    assert found.wall_hours.value == pytest.approx(0.25)


@pytest.mark.parametrize(("gpus", "usd", "hours", "cost"), [(0.0, 2.0, None, None), (1.0, None, 10.0, None)])
def test_gpu_hours_need_gpus_and_cost_needs_a_price(
    gpus: float, usd: float | None, hours: float | None, cost: float | None
) -> None:
    found = made({"seconds": Total(100, 100 * 3600)}, steady(5), gpus_per_replica=gpus, usd=usd)
    assert (found.gpu_hours and found.gpu_hours.value) == (hours and pytest.approx(hours))
    assert found.usd == cost


def test_cost_is_the_gpu_hours_at_their_price() -> None:
    found = made({"seconds": Total(100, 100 * 3600)}, steady(5), gpus_per_replica=0.5, usd=2.5)
    assert found.gpu_hours is not None
    assert found.usd == found.gpu_hours.times(2.5)
    assert found.usd.value == pytest.approx(100 * 0.1 * 0.5 * 2.5)


def test_what_the_sample_contains_completely_is_not_uncertain() -> None:
    everything = [Measured("bytes", 100 + number, 60 * number, 1, 2) for number in range(1, 5)]
    found = made({"bytes": Total(4, 410)}, everything)
    assert found.audio_hours is not None
    assert found.replica_hours is not None
    assert found.audio_hours == Estimate(pytest.approx(1 / 6), pytest.approx(1 / 6), pytest.approx(1 / 6))
    assert found.replica_hours.low < found.replica_hours.value < found.replica_hours.high  # a clock is never exact


def test_a_sample_of_dead_letters_or_of_silence_forecasts_nothing_and_says_so() -> None:
    dead = made({"bytes": Total(100, 1e6)}, [Measured("bytes", 10, 0, 0.1, 0)] * 5)
    assert (dead.audio_hours, dead.replica_hours) == (None, None)
    assert len(dead.notes) == 2
    silent = made({"seconds": Total(100, 1e6)}, [Measured("seconds", 10, 10, 0.1, 0)] * 5)
    assert silent.audio_hours is not None
    assert (silent.wall_hours, silent.notes) == (None, ["no speed of the model: the sample contains no speech"])


def test_nothing_left_takes_no_time() -> None:
    found = made({"seconds": Total(), "bytes": Total()}, units=0)
    assert found.wall_hours == found.audio_hours == Estimate(0, 0, 0)


MEASURED = st.builds(
    Measured,
    st.sampled_from(["seconds", "bytes", "number"]),
    st.floats(1e-3, 1e12),
    st.just(0.0) | st.floats(1e-3, 1e6),
    st.floats(1e-6, 1e6),
    st.just(0.0) | st.floats(1e-6, 1e6),
)


@given(st.lists(MEASURED, min_size=1, max_size=20), st.integers(1, 10**9))
def test_every_interval_is_finite_and_contains_its_value(measured: list[Measured], more: int) -> None:
    kinds = {item.kind for item in measured}
    totals = {kind: Total(sum(item.kind == kind for item in measured) + more, more * 10.0) for kind in kinds}
    found = made(totals, measured, gpus_per_replica=1, usd=3)
    figures = (found.audio_hours, found.decode_hours, found.replica_hours, found.gpu_hours, found.wall_hours, found.usd)
    for figure in figures:
        if figure is not None:
            assert 0 <= figure.low <= figure.value <= figure.high < math.inf
    assert made(totals, measured, gpus_per_replica=1, usd=3) == found  # seeded


def _population(name: str, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """2,000 recordings: what is known of each (bytes, or nothing), and its seconds."""
    seconds = random.lognormal(3, 0.7, 2_000)
    if name == "no sizes":
        return np.ones(2_000), seconds
    if name == "two bit rates":
        return seconds * np.where(random.random(2_000) < 0.3, 32_000, 8_000), seconds
    return seconds * 16_000, np.where(random.random(2_000) < 0.15, 0, seconds)  # 15 % are dead letters


@pytest.mark.parametrize("name", ["no sizes", "two bit rates", "dead letters"])
@pytest.mark.parametrize("sample", [5, 8, 16])
def test_the_interval_contains_the_truth_about_as_often_as_it_says(name: str, sample: int) -> None:
    random = np.random.default_rng(sample)
    contained = 0
    for _ in range(100):
        extents, seconds = _population(name, random)
        kind: Kind = "number" if name == "no sizes" else "bytes"
        drawn = random.choice(2_000, sample, replace=False)
        measured = [Measured(kind, float(extents[i]), float(seconds[i]), 1, 1) for i in drawn]
        found = made({kind: Total(2_000, float(extents.sum()))}, measured).audio_hours
        contained += found is None or found.low <= seconds.sum() / 3600 <= found.high
    assert contained >= 75


def test_a_sample_too_small_for_its_interval_is_named() -> None:
    assert made({"seconds": Total(100, 36_000)}, steady(4)).notes == ["4 recordings are few: the intervals are rough"]
    assert made({"seconds": Total(4, 14_400)}, steady(4)).notes == []


def test_a_larger_sample_gives_a_narrower_interval() -> None:
    def width(sample: int) -> float:
        random = np.random.default_rng(0)
        measured = [Measured("bytes", 1_000, seconds, 1, 1) for seconds in random.uniform(5, 15, sample).tolist()]
        found = made({"bytes": Total(10**6, 1e9)}, measured).audio_hours
        assert found is not None
        return found.high / found.low

    widths = [width(sample) for sample in (1, 2, 5, 20, 80)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 1.2


@pytest.mark.parametrize("module", ["forecast", "probe"])
def test_the_forecast_needs_no_ray(module: str) -> None:
    code = f"import sys, pipeline.forecast.{module}; print('ray' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
