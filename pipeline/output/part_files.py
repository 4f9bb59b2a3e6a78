"""Writes one part of the published tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.accounting import Tally
from pipeline.output.calibrator import Calibrator, calibrated
from pipeline.output.commit import DUPLICATE, EMPTY, SCHEMAS, read_commit, read_unit
from pipeline.output.parts import SUMMARY, Part
from pipeline.planning.left import unit_runs
from pipeline.planning.plan import read_columns
from pipeline.schemas import SCHEMA_VERSION
from pipeline.storage.base import OutputError, Replacement, Storage, in_order, read_json

ROW_GROUP = 16_384  # rows: so many are written together
UNITS_TOGETHER = 64  # units that a thread reads one after the other
THREADS = 4  # at most, where requests are not worth more: decoding and writing take processor time
Tables = dict[str, pa.Table]  # by the names in SCHEMAS


@dataclass(frozen=True, slots=True)
class PartTask:
    """All that it takes to write one part.

    replacements: of each table. fingerprint: id that all commits must have. before: how many units the publication
    before this one contains; committed: how many this one does. calibrator: makes the confidences; None: they are raw.
    """

    storage: Storage
    part: Part
    replacements: Mapping[str, Replacement]
    fingerprint: str
    before: int
    committed: int
    calibrator: Calibrator | None = None


@dataclass(frozen=True, slots=True)
class PartWritten:
    """A part that is written. rows: of each table. files: the version of its file in each table that has one."""

    part: Part
    rows: dict[str, int]
    tally: Tally
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Unit:
    """A planned unit. ids: of its recordings in order. firsts: those that no earlier recording has."""

    unit_id: str
    ids: list[str]
    firsts: list[str]


def file_name(number: int) -> str:
    """The name of the files of a part."""
    return f"part-{number:05d}.parquet"


def published_units(storage: Storage) -> int:
    """How many units the last publication contains, as its summary says."""
    units = read_json(storage, SUMMARY).get("units_committed", 0)
    return units if isinstance(units, int) else 0


def is_overtaken(storage: Storage, before: int, committed: int) -> bool:
    """Whether another driver has published since, and more units than the `committed` ones of this publication."""
    now = published_units(storage)
    # A user may have deleted commits. Then `before` is too large, but it does not change.
    return now != before and now > committed


def write_part(task: PartTask) -> PartWritten | None:
    """Write the files of a part and add them to the tables. Returns None if another driver has overtaken this one.

    Raises OutputError if a unit is damaged or does not agree with the plan.
    """
    storage, part = task.storage, task.part
    assert part.number is not None
    tally = Tally()
    with storage.scratch() as folder:
        writers = {
            name: _TableWriter(folder / f"{name}.parquet", schema, task.calibrator if name == "transcripts" else None)
            for name, schema in SCHEMAS.items()
        }
        reader = _UnitReader(task)
        planned = _planned(storage, part)
        several = iter(lambda: list(islice(planned, UNITS_TOGETHER)), [])
        for counted, units in in_order(reader.read, several, max(storage.parallel, min(THREADS, os.cpu_count() or 1))):
            tally.merge(counted)
            for tables in units:
                for name, table in tables.items():
                    writers[name].write(table)
        for writer in writers.values():
            writer.close()
        if is_overtaken(storage, task.before, task.committed):
            return None
        files = {}
        for name, writer in writers.items():
            # Every table has a first part. Of the others, few have dead letters.
            if writer.rows or name == "transcripts" or part.number == 0:
                files[name] = task.replacements[name].add(file_name(part.number), writer.path)
    return PartWritten(part, {name: writer.rows for name, writer in writers.items()}, tally, files)


class _TableWriter:
    """Writes one file of a table. A file without rows has the schema too."""

    def __init__(self, path: Path, schema: pa.Schema, calibrator: Calibrator | None) -> None:
        self.path, self.rows, self._calibrator = path, 0, calibrator
        self._schema = schema
        about = {"schema_version": str(SCHEMA_VERSION)}
        self._writer = pq.ParquetWriter(path, schema.with_metadata(about), compression="zstd")
        self._buffer: list[pa.Table] = []
        self._buffered_rows = 0

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        if table.num_rows:
            self.rows += table.num_rows
            self._buffered_rows += table.num_rows
            self._buffer.append(table)
        if self._buffered_rows >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Complete the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._buffer:
            self._writer.write_table(calibrated(pa.concat_tables(self._buffer).combine_chunks(), self._calibrator))
        self._buffer, self._buffered_rows = [], 0


class _UnitReader:
    """Reads units with their results, checked and in the order of the plan. Threads may share it."""

    def __init__(self, task: PartTask) -> None:
        self._storage, self._part, self._fingerprint = task.storage, task.part, task.fingerprint
        self._committed = set(task.part.unit_ids())
        # A round of retries has the order of the plan, so neighbours are in the same unit.
        self._read_later = lru_cache(maxsize=4)(lambda unit_id: self._read(unit_id)[1])

    def read(self, units: Iterable[_Unit]) -> tuple[Tally, list[Tables]]:
        """The sums over their commits, and the tables of each unit."""
        tally, tables = Tally(), []
        for unit in units:
            own = EMPTY
            is_committed = unit.unit_id in self._committed
            if is_committed:
                commit, own = self._read(unit.unit_id)
                tally.add(commit)
                own = self._placed(unit, own, unit.ids)
            elsewhere = {name: self._part.elsewhere[name] for name in unit.firsts if name in self._part.elsewhere}
            if elsewhere:
                own = _with_retries(own, {one: self._read_later(one) for one in set(elsewhere.values())}, elsewhere)
                own = self._placed(unit, own, unit.ids if is_committed else list(elsewhere))
            tables.append(_without(own, self._part.dropped.intersection(unit.ids)))
        return tally, tables

    def _read(self, unit_id: str) -> tuple[dict[str, Any], Tables]:
        commit = read_commit(self._storage, unit_id)
        if commit["fingerprint"] != self._fingerprint:
            unit = f"{self._storage.uri}: unit {unit_id}"
            raise OutputError(
                f"{unit} was committed under fingerprint {commit['fingerprint']}, not {self._fingerprint}"
            )
        return commit, read_unit(self._storage, commit)

    def _placed(self, unit: _Unit, own: Tables, answered: list[str]) -> Tables:
        """The tables in the order of the unit's recordings, the segments of a recording in their order.

        Raises OutputError unless each recording of `answered` has transcripts or a dead letter, exactly once.
        """
        names = {name: table["recording_id"].to_pylist() for name, table in own.items()}
        if Counter([*dict.fromkeys(names["transcripts"]), *names["dead_letters"]]) != Counter(answered):
            raise OutputError(f"{self._storage.uri}: unit {unit.unit_id} does not contain the recordings of its plan")
        place = {name: index for index, name in reversed(list(enumerate(unit.ids)))}
        segments = own["transcripts"]["segment_index"].to_pylist()
        return {
            "transcripts": _ordered(
                own["transcripts"],
                [(place[name], segment) for name, segment in zip(names["transcripts"], segments, strict=True)],
            ),
            "dead_letters": _ordered(own["dead_letters"], [place[name] for name in names["dead_letters"]]),
        }


def _planned(storage: Storage, part: Part) -> Iterator[_Unit]:
    """The planned units of a part in order."""
    groups = list(dict.fromkeys(part.row_groups))
    for table in read_columns(storage, part.plan, ["unit_id", "part", "recording_id", "problem"], groups):
        own = table.filter(pc.equal(table["part"], part.number))
        ids, is_copy = own["recording_id"].to_pylist(), pc.equal(own["problem"], DUPLICATE).to_pylist()
        for unit_id, first, rows in unit_runs(own["unit_id"].combine_chunks()):
            of_unit = ids[first : first + rows]
            firsts = [name for name, copy in zip(of_unit, is_copy[first : first + rows], strict=True) if not copy]
            yield _Unit(unit_id, of_unit, firsts)


def _with_retries(own: Tables, rounds: Mapping[str, Tables], elsewhere: Mapping[str, str]) -> Tables:
    """The tables of a unit, in which results of other units replace those of some recordings.

    rounds: tables of the other units, by unit id. elsewhere: the unit whose result counts, by recording id.
    """
    merged = {name: [table] for name, table in _without(own, elsewhere).items()}
    for unit_id, tables in sorted(rounds.items()):
        ids = [recording for recording, unit in elsewhere.items() if unit == unit_id]
        for name, sources in merged.items():
            sources.append(tables[name].filter(_is_of(tables[name], ids)))
    return {name: pa.concat_tables(sources) for name, sources in merged.items()}


def _without(own: Tables, ids: Iterable[str]) -> Tables:
    """The tables of a unit without the results of these recordings."""
    return {name: table.filter(pc.invert(_is_of(table, ids))) for name, table in own.items()} if ids else own


def _is_of(table: pa.Table, ids: Iterable[str]) -> pa.Array:
    """Which rows are results of these recordings. Those of another recording with the same id are not."""
    is_of = pc.is_in(table["recording_id"], pa.array(sorted(ids), pa.string()))
    return pc.and_(is_of, pc.not_equal(table["reason"], DUPLICATE)) if "reason" in table.schema.names else is_of


def _ordered(table: pa.Table, keys: list[Any]) -> pa.Table:
    """The rows in the order of their keys. Most tables have it already."""
    if all(before <= after for before, after in pairwise(keys)):
        return table
    return table.take(pa.array(sorted(range(len(keys)), key=keys.__getitem__)))
