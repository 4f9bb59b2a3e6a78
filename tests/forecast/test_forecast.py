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

from pipeline.config import ComputeConfig, PlanConfig
from pipeline.forecast.forecast import Estimate, Forecast, Kind, Measured, Total, estimate_run, kind_of
from pipeline.forecast.sample import draw
from pipeline.planning.pack import pack_units
from pipeline.schemas import RecordingRef
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
        ({"seconds": None}, ("bytes", 1000 / 8_800)),
        ({"seconds": 0.0}, ("bytes", 1000 / 8_800)),
        ({"seconds": math.inf}, ("bytes", 1000 / 8_800)),
        ({"seconds": math.nan}, ("bytes", 1000 / 8_800)),
        ({"seconds": None, "size": 0}, ("number", 30.0)),
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


def _archive(seed: int) -> tuple[list[RecordingRef], dict[str, float]]:
    """References to 30 to 3,000 recordings without declared seconds, and how long each is. Heavy tails of three forms.

    They are in four formats. The bytes per second are others than those that we estimate with, and differ between files
    of one format. In some archives a part of the files is not audio.
    """
    random = np.random.default_rng(seed)
    count = int(random.integers(30, 3_000))
    seconds = (
        random.lognormal(3, 1.5, count),
        (random.pareto(1.2, count) + 1) * 10,
        np.where(random.random(count) < 0.02, 1_200, 10) * random.lognormal(0, 0.3, count),
    )[random.integers(3)]
    kinds = random.integers(0, 4, count)
    rates = np.array([32_000, 8_000, 2_800, 15_700])[kinds] * random.lognormal(0, 0.25, count)
    sizes = np.maximum(1, seconds * rates).astype(int).tolist()
    forms = np.array(["wav", "mp3", "opus", "flac"])[kinds].tolist()
    refs = [
        ref(number, seconds=None, size=size, source_member=f"{number}.{form}")
        for number, (size, form) in enumerate(zip(sizes, forms, strict=True))
    ]
    dead = random.random(count) < random.choice([0, 0.03, 0.1])
    return refs, {item.recording_id: float(s) for item, s in zip(refs, np.where(dead, 0, seconds), strict=True)}


@pytest.mark.parametrize("sample", [8, 16])
def test_the_interval_contains_the_truth_in_85_to_95_of_100_archives_with_heavy_tails(sample: int) -> None:
    """Of 200 archives, with the sample that jobs.plan would draw. Nothing is decoded: the lengths are made up."""
    contained = 0
    for seed in range(200):
        refs, seconds = _archive(seed)
        drawn = draw(pack_units(refs, PlanConfig()), sample)
        measured = [
            Measured(*kind_of(item), seconds[item.recording_id], 1, 1, drawn.times.get(item.recording_id))
            for item in drawn.refs
        ]
        found = made(drawn.totals, measured).audio_hours
        truth = sum(seconds.values()) / 3600
        contained += found is not None and found.low <= truth <= found.high
    assert 170 <= contained <= 190


def test_one_long_recording_among_many_short_ones_is_not_missed() -> None:
    """61 recordings of about 10 s as wav and one of 20 minutes as opus: half an hour, of which most is the long one."""
    refs = [ref(number, seconds=None, size=320_000, source_member=f"{number}.wav") for number in range(61)]
    refs.insert(40, ref("long", seconds=None, size=1_200 * 2_800, source_member="long.opus"))
    seconds = {item.recording_id: 10.0 for item in refs} | {"rlong": 1_200.0}
    drawn = draw(pack_units(refs, PlanConfig()), 16)
    assert drawn.times["rlong"] > 1
    measured = [
        Measured(*kind_of(item), seconds[item.recording_id], 1, 1, drawn.times[item.recording_id])
        for item in drawn.refs
    ]
    found = made(drawn.totals, measured).audio_hours
    assert found is not None
    assert found.low <= sum(seconds.values()) / 3600 <= found.high


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
