"""The plan of a run: its units and its fingerprint, written once, never changed; further rounds are plans too."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import PlanConfig, SourceConfig
from pipeline.planning.fingerprint import KEY as FINGERPRINT
from pipeline.planning.fingerprint import check_fingerprint, check_version, fingerprint_id, to_json
from pipeline.planning.lengths import declared_seconds, expected_seconds
from pipeline.planning.pack import (
    PlannedUnit,
    Pointer,
    content_hash,
    mark_duplicates,
    pack_units,
    with_parts,
)
from pipeline.schemas import PLAN, Place, RecordingRef, WorkUnit, content_of
from pipeline.sources.access import trust
from pipeline.sources.formats import list_recordings
from pipeline.storage.base import OutputError, Storage, in_order, undamaged

BASE = "plan"  # in _run/plan.parquet; further rounds are in _run/round-1.parquet, ...
FOOTER = b"fullcanvas"  # key in the file's metadata; its value is JSON: size, fingerprint, and what a round is about
ROW_GROUP = 16_384  # rows or a few more: a row group ends where a unit ends
CACHED_ROW_GROUPS = 4  # in a PlanReader; one is enough for units in order, but a few units run at the same time


@dataclass(frozen=True, slots=True)
class PlanSize:
    """Sums over a plan. `seconds` and `bytes` contain only recordings whose length or size the source declares.

    added: recordings that no earlier plan has. end_part: one more than the highest number of its published parts.
    """

    units: int
    recordings: int
    seconds: float
    bytes: int
    added: int
    end_part: int


@dataclass(frozen=True, slots=True)
class Round:
    """What a plan is about, besides its units.

    kind: "plan" for the first one, then "retry" or "update". withdrawn: units of earlier plans that nobody shall start
    any more; a driver that has started one may still commit it. gone: recordings that the source has lost and of which
    nothing was recognised: by id, all places in plans. kept: ids of those that are lost, but were recognised before.
    """

    kind: Literal["plan", "retry", "update"]
    withdrawn: tuple[str, ...] = ()
    gone: Mapping[str, tuple[Pointer, ...]] = field(default_factory=dict)
    kept: tuple[str, ...] = ()


def make_plan(
    source: SourceConfig, config: PlanConfig, at_least: int = 0, ignored: Counter[str] | None = None
) -> Iterator[WorkUnit]:
    """List the source and pack its recordings, as a stream. Raises ConfigError if the source is missing or empty.

    at_least: as in `pack_units`. ignored: counts the files that are left out because of their names, by extension.
    """
    return pack_units(mark_duplicates(list_recordings(source, ignored=ignored)), config, at_least=at_least)


def ensure_plan(
    storage: Storage,
    source: SourceConfig,
    config: PlanConfig,
    *,
    part_rows: int,
    fingerprint: Mapping[str, Any],
    at_least: int = 0,
) -> str:
    """Plan the source unless this output has a plan. Returns the id of the fingerprint.

    at_least: so many units, as in `pack_units`. It does not change a plan that is there.

    Plan and fingerprint are one object, which is written once. If several drivers start at the same time, the first to
    write wins, and all use its plan. Raises ConfigError if the source is missing or empty, and if the settings differ
    from those of the plan.
    """
    trust.apply(source)
    if not storage.exists(plan_key(BASE)):
        ignored: Counter[str] = Counter()
        units = with_parts(make_plan(source, config, at_least, ignored), part_rows)
        write_plan(storage, BASE, units, fingerprint, ignored=ignored)
    stored = read_fingerprint(storage)
    check_fingerprint(storage.uri, stored, fingerprint)
    storage.put_if_absent(FINGERPRINT, to_json(stored))
    return fingerprint_id(stored)


def write_plan(
    storage: Storage,
    name: str,
    units: Iterable[PlannedUnit],
    fingerprint: Mapping[str, Any] | None = None,
    *,
    about: Round | None = None,
    ignored: Mapping[str, int] | None = None,
) -> bool:
    """Write `_run/<name>.parquet`, as a stream. Returns False if that plan exists; it does not change then.

    fingerprint: of the first plan. about: of every further round. ignored: what `ignored_files` returns; it may grow
    while the units come.
    """
    with storage.scratch() as directory:
        path = directory / f"{name}.parquet"
        counted = {} if ignored is None else ignored
        _write(
            path, units, {"fingerprint": fingerprint or {}, "round": asdict(about or Round("plan")), "ignored": counted}
        )
        return storage.put_if_absent(plan_key(name), path)


def read_plan(
    storage: Storage, name: str = BASE, *, skip: Set[str] = frozenset(), placed: bool | None = None
) -> Iterator[PlannedUnit]:
    """The units of a plan in order, except those whose id is in `skip`. One row group is in memory at a time.

    placed: only units with a number of their part (True) or without one (False).
    """
    with _opened(storage, name) as file:
        for index in range(file.num_row_groups):
            table = file.read_row_group(index, use_threads=False)
            if skip:
                table = table.filter(pa.array([unit not in skip for unit in table["unit_id"].to_pylist()], pa.bool_()))
            if placed is not None:
                table = table.filter(pc.is_valid(table["part"]) if placed else pc.is_null(table["part"]))
            yield from _planned(table)


def read_columns(
    storage: Storage, name: str, columns: list[str], row_groups: Iterable[int] | None = None
) -> Iterator[pa.Table]:
    """These columns of a plan, one row group after the other. row_groups: numbers of those to read; None: all."""
    with _opened(storage, name) as file:
        for index in range(file.num_row_groups) if row_groups is None else row_groups:
            yield file.read_row_group(index, columns=columns, use_threads=False)


def unit_ids(storage: Storage, name: str = BASE) -> set[str]:
    """The ids of all units of a plan. Memory: about 110 MB for a million."""
    groups = read_columns(storage, name, ["unit_id"])
    return {unit for table in groups for unit in table["unit_id"].unique().to_pylist()}


def plan_names(storage: Storage) -> list[str]:
    """The plans of this output in order: "plan", then the rounds. Empty if nothing is planned."""
    names = [key.removeprefix("_run/").removesuffix(".parquet") for key in storage.list("_run/round-")]
    rounds = sorted((name for name in names if round_number(name)), key=round_number)
    return [BASE, *rounds] if storage.exists(plan_key(BASE)) else []


def round_number(name: str) -> int:
    """The number of a round: 3 for "round-3", 0 for any other name."""
    head, _, number = name.partition("-")
    return int(number) if head == "round" and number.isdecimal() else 0


def round_name(number: int) -> str:
    """The name of the round with this number, from 1. Retries and updates are counted together."""
    return f"round-{number}"


def read_round(storage: Storage, name: str) -> Round:
    """What a round is about, from the footer of its file. Raises OutputError if the file is damaged."""
    about = _footer(storage, name)["round"]
    gone = {name: tuple((unit, index) for unit, index in places) for name, places in about["gone"].items()}
    return Round(about["kind"], tuple(about["withdrawn"]), gone, tuple(about["kept"]))


def withdrawn_units(storage: Storage, names: Iterable[str]) -> set[str]:
    """The ids of all units that the rounds among `names` have withdrawn."""
    rounds = [name for name in names if round_number(name)]
    abouts = in_order(partial(read_round, storage), rounds, storage.parallel)
    return {unit for about in abouts for unit in about.withdrawn}


def gone_recordings(storage: Storage, names: Iterable[str]) -> dict[str, tuple[Pointer, ...]]:
    """The recordings that an update has found gone and that no later round has again, by id, as in Round.gone.

    Those that were recognised before have no place here.
    """
    gone: dict[str, tuple[Pointer, ...]] = {}
    for name in names:
        if not round_number(name):
            continue
        if gone:
            ids = pa.array(gone, pa.string())
            for table in read_columns(storage, name, ["recording_id"]):
                for recording in table.filter(pc.is_in(table["recording_id"], ids))["recording_id"].to_pylist():
                    gone.pop(recording, None)
        about = read_round(storage, name)
        gone |= {**about.gone, **dict.fromkeys(about.kept, ())}
    return gone


def plan_key(name: str) -> str:
    """The object that contains the plan `name`."""
    return f"_run/{name}.parquet"


def plan_size(storage: Storage, name: str = BASE) -> PlanSize:
    """Sums over a plan, from the footer of its file. Raises OutputError if the file is damaged."""
    return PlanSize(**_footer(storage, name)["size"])


def ignored_files(storage: Storage) -> dict[str, int]:
    """How many files, or members of archives, the first plan has left out because of their names, by extension."""
    found: dict[str, int] = _footer(storage, BASE).get("ignored", {})
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def read_fingerprint(storage: Storage) -> dict[str, Any]:
    """The fingerprint of this output, from its plan.

    Raises FileNotFoundError if nothing is planned, ConfigError if this version does not read the output.
    """
    stored: dict[str, Any] = _footer(storage, BASE)["fingerprint"]
    check_version(storage.uri, stored)
    return stored


class PlanReader:
    """Reads single units by their place. It caches the last row groups, about 5 MB each, for a unit's neighbours.

    Threads may share it.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._row_groups: dict[tuple[str, int], pa.Table] = {}  # by plan and index; the last one used is the last

    def unit(self, unit_id: str, place: Place) -> WorkUnit:
        """The unit at `place`, or the one recording of it that `place` names. Raises OutputError if it is not there."""
        planned = list(_planned(self._row_group(place.plan, place.row_group).slice(place.first_row, place.rows)))
        if len(planned) != 1 or planned[0].unit.unit_id != unit_id or len(planned[0].unit.refs) != place.rows:
            key = plan_key(place.plan)
            raise OutputError(f"{self._storage.uri}/{key}: unit {unit_id} is not at its place in the plan")
        return planned[0].unit

    def _row_group(self, plan: str, index: int) -> pa.Table:
        """A row group of a plan; an empty table if the plan does not have so many."""
        with self._lock:
            table = self._row_groups.pop((plan, index), None)
            if table is None:
                with _opened(self._storage, plan) as file:
                    exists = index < file.num_row_groups
                    table = file.read_row_group(index, use_threads=False) if exists else PLAN.empty_table()
            self._row_groups[plan, index] = table
            if len(self._row_groups) > CACHED_ROW_GROUPS:
                del self._row_groups[next(iter(self._row_groups))]
            return table


def _write(path: Path, units: Iterable[PlannedUnit], footer: Mapping[str, Any]) -> None:
    count, recordings, seconds, size, added, end_part = 0, 0, 0.0, 0, 0, 0  # of the plan so far
    rows: list[tuple[object, ...]] = []
    with pq.ParquetWriter(path, PLAN, compression="zstd") as writer:
        for planned in units:
            refs = planned.unit.refs
            rows.extend([_row(planned, index) for index in range(len(refs))])
            count, recordings = count + 1, recordings + len(refs)
            seconds += math.fsum([declared_seconds(ref) or 0.0 for ref in refs])
            size += sum(ref.size for ref in refs)
            if planned.part is not None:
                added, end_part = added + len(refs), planned.part + 1
            if len(rows) >= ROW_GROUP:
                writer.write_table(_table(rows))
                rows = []
        if rows:
            writer.write_table(_table(rows))
        sums = asdict(PlanSize(count, recordings, seconds, size, added, end_part))
        writer.add_key_value_metadata({FOOTER.decode(): json.dumps({"size": sums, **footer})})


def _row(planned: PlannedUnit, index: int) -> tuple[object, ...]:
    """The row of PLAN for one recording of a unit."""
    unit_id, place = planned.earlier[index] if planned.earlier else (None, None)
    ref = planned.unit.refs[index]
    return (
        planned.unit.unit_id,
        planned.part,
        unit_id,
        place,
        content_hash(ref),
        expected_seconds(ref),
        *content_of(ref),
    )


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    columns: list[Any] = list(zip(*rows, strict=True))
    sidecars = PLAN.get_field_index("sidecars")
    columns[sidecars] = [
        [{"extension": extension, "offset": offset, "size": size} for extension, offset, size in cell]
        for cell in columns[sidecars]
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, PLAN, strict=True)], schema=PLAN)


def _planned(table: pa.Table) -> Iterator[PlannedUnit]:
    """The units in some rows of a plan."""
    columns = [_sidecars(table[name]) if name == "sidecars" else _values(table[name]) for name in PLAN.names]
    for unit_id, group in groupby(zip(*columns, strict=True), key=itemgetter(0)):
        rows = list(group)  # tuples in the order of PLAN; the fields of the reference are the last ones
        refs = tuple(RecordingRef(*row[-len(fields(RecordingRef)) :]) for row in rows)
        _, part, first_earlier, *_ = rows[0]
        earlier = tuple((row[2], row[3]) for row in rows) if first_earlier is not None else ()
        yield PlannedUnit(WorkUnit(unit_id, refs), part, earlier)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The same as `to_pylist`, but fast for a column without any value. Half of the columns of most plans have none."""
    return [None] * len(column) if column.null_count == len(column) else column.to_pylist()


def _sidecars(column: pa.ChunkedArray) -> list[tuple[tuple[str, int, int], ...]]:
    """The cells as tuples of (extension, offset, size). It avoids `to_pylist`, which makes a dict for each sidecar."""
    cells: list[tuple[tuple[str, int, int], ...]] = []
    for chunk in column.chunks:
        values = list(zip(*(field.to_pylist() for field in chunk.flatten().flatten()), strict=True))
        begin = chunk.offsets[0].as_py()  # not 0 in a slice
        cells += [tuple(values[first - begin : end - begin]) for first, end in pairwise(chunk.offsets.to_pylist())]
    return cells


def _footer(storage: Storage, name: str) -> dict[str, Any]:
    """Size, fingerprint and what a round is about, as `_write` has stored them."""
    with _opened(storage, name) as file:
        footer: dict[str, Any] = json.loads(file.metadata.metadata[FOOTER])
        return footer


@contextlib.contextmanager
def _opened(storage: Storage, name: str) -> Iterator[pq.ParquetFile]:
    """The open file of a plan. Raises OutputError where it is damaged, or not a plan of this version."""
    address = f"{storage.uri}/{plan_key(name)}"
    with undamaged(address), storage.open(plan_key(name)) as stream, pq.ParquetFile(stream) as file:
        if file.schema_arrow.names != PLAN.names or FOOTER not in (file.metadata.metadata or {}):
            raise OutputError(f"{address}: not a plan of this version of fullcanvas")
        yield file
