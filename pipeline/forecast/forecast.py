"""The forecast of a run: audio, work, time and cost of what is left to do, each with an interval. Arithmetic only.

Recordings are of three kinds by what the source says about their length: seconds, only bytes, or nothing. Each has an
extent: the seconds that are declared, estimated from bytes and extension, or half a minute. The probe (probe.py)
measures a sample of each kind. A recording is drawn with a probability in proportion to its extent, with replacement,
so that the largest ones are not missed. The mean of measured seconds by extent, over the draws, is scaled to the whole
kind (Hansen and Hurwitz, 1943). The intervals come from a bootstrap over the draws (by scipy), widened for small
samples. They say what another sample would have given. They say nothing about another machine or a busy one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import stats

from pipeline.config import ComputeConfig
from pipeline.planning.lengths import declared_seconds, estimated_seconds
from pipeline.schemas import RecordingRef

Kind = Literal["seconds", "bytes", "number"]
KINDS: tuple[Kind, ...] = ("seconds", "bytes", "number")

COVERAGE = 0.9  # of the intervals
FEW = 5  # recordings: with fewer, the truth is in an interval less often than it says (tests/forecast/test_forecast.py)
DRAWS = 2_000  # resamples of the bootstrap
SEED = 0
SMALLEST = 1e-3  # the least a resample may be of the observed ratio: one of dead letters only has no logarithm
ONE_FACTOR = 10.0  # a sample of one says nothing about its spread: the interval reaches from a tenth to ten times


@dataclass(frozen=True, slots=True)
class Total:
    """All recordings of one kind that are left to do: how many, and the sum of their `extent`."""

    recordings: int = 0
    extent: float = 0.0

    def plus(self, extent: float) -> Total:
        """One more recording of this extent."""
        return Total(self.recordings + 1, self.extent + extent)


@dataclass(frozen=True, slots=True)
class Measured:
    """One recording of the sample. All seconds are for the whole recording; they are 0 where it is a dead letter.

    times: how often it was drawn, in proportion to its extent. None: the sample is everything, nothing was drawn.
    """

    kind: Kind
    extent: float  # seconds: declared, estimated from bytes, or half a minute
    audio_seconds: float
    decode_seconds: float  # of one decode actor
    replica_seconds: float | None  # of one replica; None where no model was run
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that contains the truth nine times in ten. low <= value <= high, all finite."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """Value and bounds multiplied by a factor of at least 0."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is left to do, in hours: of audio, of work of one actor, of the clock. None: not known."""

    units: int
    recordings: int  # without those known to be unreadable
    probed: int  # recordings of the sample that were measured
    audio_hours: Estimate | None = None
    decode_hours: Estimate | None = None
    replica_hours: Estimate | None = None
    gpu_hours: Estimate | None = None  # None as well where replicas run on CPUs
    wall_hours: Estimate | None = None
    usd: Estimate | None = None  # None as well without a price or a GPU
    coverage: float = COVERAGE
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Work:
    """Seconds of work of both stages: [1 + DRAWS], the estimate and then the resamples. None: unknown."""

    decode: np.ndarray | None
    replica: np.ndarray | None
    decoders: int  # actors that decode at the same time
    replicas: int

    def wall(self) -> np.ndarray | None:
        """[1 + DRAWS] seconds of the slower stage."""
        if self.decode is None or self.replica is None:
            return None
        return np.maximum(self.decode / self.decoders, self.replica / self.replicas)


def kind_of(ref: RecordingRef) -> tuple[Kind, float]:
    """How the length of a recording can be known, and its extent in seconds: declared, by its bytes, or nominal."""
    seconds = declared_seconds(ref)
    if seconds is not None and 0 < seconds < float("inf"):
        return "seconds", seconds
    return "bytes" if ref.size > 0 else "number", estimated_seconds(ref)


def estimate_run(
    totals: Mapping[Kind, Total],
    measured: Sequence[Measured],
    *,
    units: int,
    compute: ComputeConfig,
    usd_per_gpu_hour: float | None,
) -> Forecast:
    """Scale the measured sample to all that is left.

    Declared seconds are summed as they are. Everything else is estimated; it is unknown where no recording of a kind
    was measured, or where all measured ones have a length of 0. The wall time is that of the slower stage, with as many
    actors as `compute` allows and `units` can keep busy.
    """
    left = {kind: total for kind, total in totals.items() if total.recordings}
    recordings = sum(total.recordings for total in left.values())
    sample = {kind: [item for item in measured if item.kind == kind] for kind in left}
    audio = _scaled(left, sample, "audio_seconds")
    replicas_max = max(compute.replicas_min, compute.replicas_max)
    work = _Work(
        decode=_scaled(left, sample, "decode_seconds"),
        replica=_scaled(left, sample, "replica_seconds"),
        decoders=max(1, min(compute.decoders(replicas_max), units)),
        replicas=max(1, min(replicas_max, units)),
    )
    replica_hours = _hours(work.replica)
    gpu_hours = replica_hours.times(compute.gpus_per_replica) if replica_hours and compute.gpus_per_replica else None
    notes = []
    if 0 < len(measured) < min(FEW, recordings):
        notes.append(f"{len(measured)} recordings are few: the intervals are rough")
    if audio is None and measured:
        notes.append("no audio hours: some recordings declare no length, and the sample of them gave none")
    if work.replica is None and measured and all(item.replica_seconds == 0 for item in measured):
        notes.append("no speed of the model: the sample contains no speech")
    return Forecast(
        units=units,
        recordings=recordings,
        probed=len(measured),
        audio_hours=_hours(audio),
        decode_hours=_hours(work.decode),
        replica_hours=replica_hours,
        gpu_hours=gpu_hours,
        wall_hours=_hours(work.wall()),
        usd=gpu_hours.times(usd_per_gpu_hour) if gpu_hours and usd_per_gpu_hour is not None else None,
        notes=[*notes, *_bottleneck(work, on_gpus=gpu_hours is not None)],
    )


def widened(ratio: float, draws: np.ndarray, sample: int) -> np.ndarray:
    """Resampled ratios, moved away from `ratio` as far as the size of the sample demands.

    ratio: the observed one. draws: [any], ratios of the resamples. sample: draws in it, at least 1.

    A bootstrap of few recordings gives intervals that are too narrow. Three things widen them: sqrt(n / (n - 1)),
    Student's t, and what the sample has not shown yet (the first dead letter, the first file of another bit rate): of
    2 n recordings one may differ by a factor of e. With that the intervals of 200 made-up archives with heavy tails
    contain the truth in 85 to 95 % (tests/forecast/test_forecast.py). All this happens on a logarithmic scale, because
    a ratio is never negative.
    """
    if ratio <= 0:
        return np.full_like(draws, ratio)
    if sample == 1:
        return ratio * ONE_FACTOR ** (np.linspace(-1, 1, len(draws)) / COVERAGE)
    tail = (1 + COVERAGE) / 2
    student = stats.t.ppf(tail, sample - 1) / stats.norm.ppf(tail)
    seen = np.log(np.maximum(draws / ratio, SMALLEST)) * student * np.sqrt(sample / (sample - 1))
    unseen = np.random.default_rng(SEED).normal(0, 0.5 / sample, len(draws))
    return np.asarray(ratio * np.exp(seen + unseen))


def _scaled(
    left: Mapping[Kind, Total],
    sample: Mapping[Kind, Sequence[Measured]],
    measure: Literal["audio_seconds", "decode_seconds", "replica_seconds"],
) -> np.ndarray | None:
    """[1 + DRAWS]: the estimate of a sum over all recordings, then what the resamples give. None: unknown."""
    lengths = measure == "audio_seconds"  # those of the sample are exact; the time that work takes never is
    whole = np.zeros(1 + DRAWS)
    for kind, total in left.items():
        if lengths and kind == "seconds":
            whole += total.extent
            continue
        values = [getattr(item, measure) for item in sample[kind]]
        if not values or None in values:
            return None
        seconds, extents = _draws(sample[kind], values)
        ratio = float(_ratio(seconds, extents))
        if ratio == 0 and len(values) < total.recordings:
            return None
        is_known = lengths and len(values) == total.recordings
        drawn = _resampled(seconds, extents, KINDS.index(kind))
        draws = np.full_like(drawn, ratio) if is_known else widened(ratio, drawn, len(seconds))
        whole += total.extent * np.append(ratio, draws)
    return whole


def _draws(sample: Sequence[Measured], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and extents, [draws] each: for every time that a recording was drawn, its seconds by an extent of 1."""
    pairs = [
        (seconds, item.extent) if item.times is None else (seconds / item.extent, 1.0)
        for item, seconds in zip(sample, values, strict=True)
        for _ in range(1 if item.times is None else item.times)
    ]
    seconds, extents = np.array(pairs, float).T
    return seconds, extents


def _resampled(seconds: np.ndarray, extents: np.ndarray, kind: int) -> np.ndarray:
    """[DRAWS] ratios; for every measure of one kind the same recordings are drawn, as the wall time compares them."""
    if len(seconds) == 1:
        return np.full(DRAWS, _ratio(seconds, extents))
    resampled = stats.bootstrap(
        (seconds, extents),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=DRAWS,
        method="percentile",
        rng=np.random.default_rng([SEED, kind]),
    )
    return np.asarray(resampled.bootstrap_distribution)


def _ratio(seconds: np.ndarray, extents: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(seconds.sum(axis) / extents.sum(axis))


def _bottleneck(work: _Work, *, on_gpus: bool) -> Iterator[str]:
    """A note where decoding is slower than the model."""
    if work.decode is None or work.replica is None:
        return
    decode, replica = work.decode[0] / work.decoders, work.replica[0] / work.replicas
    if decode > replica > 0:
        yield (
            f"decoding is slower than the model: replicas wait {1 - replica / decode:.0%} of the time"
            f"{' (not in the GPU hours)' if on_gpus else ''}; compute.decode_actors="
            f"{int(np.ceil(work.decode[0] / replica))} would keep up"
        )


def _hours(seconds: np.ndarray | None) -> Estimate | None:
    if seconds is None:
        return None
    value = float(seconds[0])
    low, high = np.quantile(seconds[1:], [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value)).times(1 / 3600)
