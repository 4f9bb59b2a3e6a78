"""The forecast of a run: audio, work, time and cost of what is left to do, each with an interval. Arithmetic only.

Recordings are of three kinds by what the source says of their length: seconds, or only bytes, or nothing. Of each kind
a random sample is heard (probe.py), and what was measured is scaled to the whole kind by seconds, by bytes or by
number: ratio estimates. Intervals are those of a bootstrap over the sampled recordings, widened for small samples. They
tell what another sample would have said, not what another machine or a busy one would do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.config import ComputeConfig
from pipeline.planning.pack import declared_seconds
from pipeline.schemas import RecordingRef

Kind = Literal["seconds", "bytes", "number"]
KINDS: tuple[Kind, ...] = ("seconds", "bytes", "number")

COVERAGE = 0.9  # of the intervals
FEW = 5  # recordings: with fewer, an interval holds the truth less often than it says (tests/forecast/test_forecast.py)
DRAWS = 2_000  # resamples of the bootstrap
SEED = 0
# 95 % points of Student's t by degrees of freedom, against 1.645 of the normal distribution.
T_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753)
Z_95 = 1.645
SMALLEST = 1e-3  # of a resample: that of dead letters only has no logarithm
ONE_FACTOR = 10.0  # a sample of one says nothing about its spread: an interval from a tenth to ten times


@dataclass(frozen=True, slots=True)
class Total:
    """All recordings of one kind that are left to do: how many, and the sum of their `extent`."""

    recordings: int = 0
    extent: float = 0.0

    def plus(self, extent: float) -> Total:
        return Total(self.recordings + 1, self.extent + extent)


@dataclass(frozen=True, slots=True)
class Probed:
    """One recording that was heard. All seconds are of the whole recording, 0 where it is a dead letter."""

    kind: Kind
    extent: float  # declared seconds, or bytes, or 1
    audio_seconds: float
    decode_seconds: float  # of one decode actor
    replica_seconds: float | None  # of one replica; None where no model was run


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that holds it nine times in ten. low <= value <= high, all finite."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is left to do. None: not known. Hours of audio, of the work of one actor, of the clock."""

    units: int
    recordings: int  # those known to be unreadable are left out
    probed: int
    audio_hours: Estimate | None = None
    decode_hours: Estimate | None = None
    replica_hours: Estimate | None = None
    gpu_hours: Estimate | None = None  # None as well where replicas run on CPUs
    wall_hours: Estimate | None = None
    usd: Estimate | None = None  # None as well without a price or a GPU
    coverage: float = COVERAGE
    notes: list[str] = field(default_factory=list)


def kind_of(ref: RecordingRef) -> tuple[Kind, float]:
    """How the length of a recording can be known, and its extent: declared seconds, bytes, or 1."""
    seconds = declared_seconds(ref)
    if seconds is not None and 0 < seconds < float("inf"):
        return "seconds", seconds
    return ("bytes", float(ref.size)) if ref.size > 0 else ("number", 1.0)


def forecast(
    totals: Mapping[Kind, Total],
    probed: Sequence[Probed],
    *,
    units: int,
    compute: ComputeConfig,
    usd_per_gpu_hour: float | None,
) -> Forecast:
    """Scale what was heard of the sample to all that is left.

    Declared seconds are summed as they are; everything else is estimated, and unknown where nothing of a kind was
    heard, or none of a sample was of any length. The wall time is that of the slower of the
    two stages, with as many actors as `compute` allows and `units` can keep busy.
    """
    held = {kind: total for kind, total in totals.items() if total.recordings}
    counts = {"units": units, "recordings": sum(total.recordings for total in held.values()), "probed": len(probed)}
    random = np.random.default_rng(SEED)
    sample = {kind: [item for item in probed if item.kind == kind] for kind in held}
    weights = {kind: random.multinomial(len(of), [1 / len(of)] * len(of), DRAWS) for kind, of in sample.items() if of}

    def scaled(measure: Callable[[Probed], float | None], *, exact: bool = False) -> np.ndarray | None:
        """[1 + DRAWS]: the estimate of a sum over all recordings, then what resamples say. None: unknown."""
        whole = np.zeros(1 + DRAWS)
        for kind, total in held.items():
            if exact and kind == "seconds":
                whole += total.extent
                continue
            values = [measure(item) for item in sample[kind]]
            if not values or None in values:
                return None
            extents = np.array([item.extent for item in sample[kind]])
            measured = np.array(values, float)
            ratio = measured.sum() / extents.sum()
            if ratio == 0 and len(values) < total.recordings:
                return None
            draws = weights[kind] @ measured / (weights[kind] @ extents)
            heard = len(values) / total.recordings if exact else 0.0
            whole += total.extent * np.append(ratio, widened(ratio, draws, len(values), heard))
        return whole

    audio = scaled(lambda item: item.audio_seconds, exact=True)
    decode, replica = scaled(lambda item: item.decode_seconds), scaled(lambda item: item.replica_seconds)
    decoders = max(1, min(compute.decode_actors, units))
    replicas = max(1, min(max(compute.replicas_min, compute.replicas_max), units))
    wall = None if decode is None or replica is None else np.maximum(decode / decoders, replica / replicas)
    replica_hours = _hours(replica)
    gpu_hours = replica_hours.times(compute.gpus_per_replica) if replica_hours and compute.gpus_per_replica else None
    notes = []
    if 0 < len(probed) < min(FEW, counts["recordings"]):
        notes.append(f"{len(probed)} recordings are few: the intervals are rough")
    if audio is None and probed:
        notes.append("no length: it is not declared everywhere, and what was probed without it could not be heard")
    if replica is None and probed and all(item.replica_seconds == 0 for item in probed):
        notes.append("no speed of the model: there is no speech in what was probed")
    if decode is not None and replica is not None and decode[0] / decoders > replica[0] / replicas > 0:
        idle = 1 - replica[0] / replicas / (decode[0] / decoders)
        enough = int(np.ceil(decode[0] / (replica[0] / replicas)))
        notes.append(
            f"decoding is slower than the model: replicas wait {idle:.0%} of the time"
            f"{' (not in the GPU hours)' if gpu_hours else ''}; compute.decode_actors={enough} would keep up"
        )
    return Forecast(
        **counts,
        audio_hours=_hours(audio),
        decode_hours=_hours(decode),
        replica_hours=replica_hours,
        gpu_hours=gpu_hours,
        wall_hours=_hours(wall),
        usd=gpu_hours.times(usd_per_gpu_hour) if gpu_hours and usd_per_gpu_hour is not None else None,
        notes=notes,
    )


def widened(ratio: float, draws: np.ndarray, sample: int, heard: float) -> np.ndarray:
    """Resampled ratios, moved away from `ratio` as far as a sample of this size and share of the whole demands.

    A bootstrap of few recordings is too sure of itself: by sqrt(n / (n - 1)), by Student's t, and because of what has
    not been seen yet (the first dead letter, the first of another bit rate): of n + 1 recordings one may differ by a
    factor e. What has been heard (the share `heard`) is not uncertain. All on a logarithmic scale: a ratio is never
    negative.
    """
    if ratio <= 0 or heard >= 1:
        return np.full_like(draws, ratio)
    if sample == 1:
        return ratio * ONE_FACTOR ** (np.linspace(-1, 1, len(draws)) / COVERAGE)
    student = T_95[sample - 2] / Z_95 if sample - 2 < len(T_95) else 1 + 1.3 / sample
    seen = np.log(np.maximum(draws / ratio, SMALLEST)) * student * np.sqrt(sample / (sample - 1))
    unseen = np.random.default_rng(SEED).normal(0, 1 / sample, len(draws))
    return np.asarray(ratio * np.exp((seen + unseen) * np.sqrt(1 - heard)))


def _hours(seconds: np.ndarray | None) -> Estimate | None:
    if seconds is None:
        return None
    value = float(seconds[0])
    low, high = np.quantile(seconds[1:], [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value)).times(1 / 3600)
