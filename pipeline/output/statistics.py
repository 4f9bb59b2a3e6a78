"""What the report of a run counts in its published transcripts: one pass over a few columns, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.tables import as_now, opened_part, part_keys
from pipeline.storage.base import Storage

BINS = 50  # of confidence
COLUMNS = ["recording_id", "language", "start_ms", "end_ms", "confidence", "steps"]


@dataclass(slots=True)
class LanguageFigures:
    """The segments of one language."""

    segments: int = 0
    milliseconds: int = 0
    confident: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))  # [BINS] segments by confidence

    def quantile(self, fraction: float) -> float | None:
        """The confidence that this fraction of the segments is at most; exact to 1 / BINS. None: no segment has one."""
        if not (total := int(self.confident.sum())):
            return None
        return (int(np.searchsorted(np.cumsum(self.confident), fraction * total)) + 0.5) / BINS


@dataclass(frozen=True, slots=True)
class Slow:
    """A recording by what the model did for it. steps: of all its segments. seconds: of audio in them."""

    recording_id: str
    steps: int
    seconds: float


@dataclass(slots=True)
class Statistics:
    """The published transcripts in figures. chosen: ids of recordings drawn at random, by the key of their part."""

    languages: dict[str, LanguageFigures] = field(default_factory=dict)  # most audio first; "unknown" without one
    steps: Counter[int] = field(default_factory=Counter)  # segments by steps; those without are left out
    slowest: list[Slow] = field(default_factory=list)  # most steps first
    chosen: dict[str, list[str]] = field(default_factory=dict)


def statistics_of(storage: Storage, *, slowest: int, sample: int) -> Statistics:
    """Count the published transcripts. Memory: COLUMNS of one part.

    slowest, sample: how many recordings of these kinds. The same tables give the same sample.
    """
    found = Statistics()
    drawn: list[tuple[float, str, str]] = []
    for number, (key, table) in enumerate(_tables(storage)):
        _count_languages(found, table)
        steps = table["steps"].drop_null().value_counts()
        found.steps.update(dict(zip(steps.field("values").to_pylist(), steps.field("counts").to_pylist(), strict=True)))
        recordings = table.group_by("recording_id", use_threads=False).aggregate([("steps", "sum"), ("length", "sum")])
        most = recordings.filter(pc.greater(recordings["steps_sum"], 0)).sort_by([("steps_sum", "descending")])
        for row in most.slice(0, slowest).to_pylist():
            found.slowest.append(Slow(row["recording_id"], row["steps_sum"], row["length_sum"] / 1000))
        found.slowest = sorted(found.slowest, key=lambda one: -one.steps)[:slowest]
        lots = np.random.default_rng([0, number]).random(len(recordings))
        places = np.sort(np.argsort(lots)[:sample])
        ids = recordings["recording_id"].take(pa.array(places)).to_pylist()
        drawn += zip(lots[places].tolist(), [key] * len(ids), ids, strict=True)
        drawn = sorted(drawn)[:sample]
    found.languages = dict(sorted(found.languages.items(), key=lambda item: -item[1].milliseconds))
    for _, key, recording in drawn:
        found.chosen.setdefault(key, []).append(recording)
    return found


def chosen_rows(storage: Storage, chosen: dict[str, list[str]], columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The segments of each recording of `Statistics.chosen`, in the order of the tables."""
    for key in sorted(chosen):
        rows: dict[str, list[dict[str, Any]]] = {}
        with opened_part(storage, key) as file:
            for batch in file.iter_batches(batch_size=1024, columns=["recording_id", *columns]):
                table = pa.Table.from_batches([batch])
                table = table.filter(pc.is_in(table["recording_id"], pa.array(chosen[key], pa.string())))
                for row in as_now(table, "transcripts", ["recording_id", *columns], key).to_pylist():
                    rows.setdefault(row["recording_id"], []).append(row)
        yield from rows.values()


def _tables(storage: Storage) -> Iterator[tuple[str, pa.Table]]:
    """Key and COLUMNS of each part, and with them `length`: int64 milliseconds."""
    for key in part_keys(storage, "transcripts"):
        with opened_part(storage, key) as file:
            table = as_now(file.read(COLUMNS), "transcripts", COLUMNS, f"{storage.uri}/{key}")
        yield key, table.append_column("length", pc.subtract(table["end_ms"], table["start_ms"]))


def _count_languages(found: Statistics, table: pa.Table) -> None:
    languages = pc.fill_null(table["language"], "unknown").combine_chunks().dictionary_encode()
    names, codes = languages.dictionary.to_pylist(), languages.indices.to_numpy()
    confidence = table["confidence"].to_numpy()  # null becomes NaN
    is_known = ~np.isnan(confidence)
    bins = np.minimum(confidence[is_known] * BINS, BINS - 1).astype(np.int64)
    confident = np.bincount(codes[is_known] * BINS + bins, minlength=len(names) * BINS).reshape(-1, BINS)
    segments = np.bincount(codes, minlength=len(names))
    milliseconds = np.bincount(codes, table["length"].to_numpy(), minlength=len(names))
    for index, name in enumerate(names):
        one = found.languages.setdefault(name, LanguageFigures())
        one.segments += int(segments[index])
        one.milliseconds += round(float(milliseconds[index]))
        one.confident += confident[index]
