"""The immutable plan of a run: its units with the fingerprint, written once, read as a stream; what is left to do."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import PlanConfig, SourceConfig
from pipeline.planning.fingerprint import KEY as FINGERPRINT
from pipeline.planning.fingerprint import check_fingerprint, fingerprint_id, to_json
from pipeline.planning.pack import PlannedUnit, declared_seconds, mark_duplicates, pack, with_parts
from pipeline.schemas import PLAN, TODO, Place, RecordingRef, WorkUnit, content_of, to_table
from pipeline.sources.formats import list_recordings
from pipeline.storage.base import OutputError, Storage

BASE = "plan"  # _run/plan.parquet; later rounds are _run/retry-1.parquet, ...
FOOTER = b"fullcanvas"  # key in the file's metadata: JSON of its size and fingerprint
ROW_GROUP = 16_384  # rows; a row group ends where a unit ends
KEPT_ROW_GROUPS = 4  # that a PlanReader keeps: several decode actors are at work at places near each other


@dataclass(frozen=True, slots=True)
class PlanSize:
    """What a plan holds. `seconds` counts the recordings that declare a length, `bytes` those whose size is known."""

    units: int
    recordings: int
    seconds: float
    bytes: int


def make_plan(source: SourceConfig, config: PlanConfig) -> Iterator[WorkUnit]:
    """List the source and pack it, as a stream. Raises ConfigError where the source is missing or empty."""
    return pack(mark_duplicates(list_recordings(source)), config)


def ensure_plan(
    storage: Storage, source: SourceConfig, config: PlanConfig, *, part_rows: int, fingerprint: Mapping[str, Any]
) -> str:
    """Plan the source unless this output has its plan already. Returns the id of its fingerprint.

    Plan and fingerprint are one object, written once: of racing drivers one writes, and all use its plan or, where
    their settings differ, are refused. Raises ConfigError for that, and where the source is missing or empty.
    """
    if not storage.exists(plan_key(BASE)):
        write_plan(storage, BASE, with_parts(make_plan(source, config), part_rows), fingerprint)
    stored = read_fingerprint(storage)
    check_fingerprint(storage.uri, stored, fingerprint)
    storage.put_if_absent(FINGERPRINT, to_json(stored))
    return fingerprint_id(stored)


def write_plan(
    storage: Storage, name: str, units: Iterable[PlannedUnit], fingerprint: Mapping[str, Any] | None = None
) -> bool:
    """Write `_run/<name>.parquet` once, streaming. False: there was one already and it stays."""
    with storage.scratch() as directory:
        path = directory / f"{name}.parquet"
        _write(path, units, fingerprint or {})
        return storage.put_if_absent(plan_key(name), path)


def read_plan(storage: Storage, name: str = BASE, *, skip: Set[str] = frozenset()) -> Iterator[PlannedUnit]:
    """The units of a plan in order, one row group in memory; without those whose id is in `skip`."""
    with _opened(storage, name) as file:
        for index in range(file.num_row_groups):
            table = file.read_row_group(index, use_threads=False)
            if skip:
                table = table.filter(pa.array([unit not in skip for unit in table["unit_id"].to_pylist()], pa.bool_()))
            yield from _planned(table)


def unit_ids(storage: Storage, name: str = BASE) -> set[str]:
    """The ids of a plan's units, about 110 MB for a million."""
    with _opened(storage, name) as file:
        groups = (
            file.read_row_group(index, columns=["unit_id"], use_threads=False) for index in range(file.num_row_groups)
        )
        return {unit for table in groups for unit in table["unit_id"].unique().to_pylist()}


def plan_names(storage: Storage) -> list[str]:
    """The plans of this output in order: "plan", then the rounds of retries; empty where nothing is planned."""
    names = [key.removeprefix("_run/").removesuffix(".parquet") for key in storage.list("_run/retry-")]
    rounds = sorted((name for name in names if retry_round(name)), key=retry_round)
    return [BASE, *rounds] if storage.exists(plan_key(BASE)) else []


def retry_round(name: str) -> int:
    """3 for "retry-3", 0 for the plan itself and anything else."""
    head, _, number = name.partition("-")
    return int(number) if head == "retry" and number.isdecimal() else 0


def plan_key(name: str) -> str:
    return f"_run/{name}.parquet"


def plan_size(storage: Storage, name: str = BASE) -> PlanSize:
    """Counts of a plan, from the footer of its file. Raises OutputError where the file is damaged."""
    return PlanSize(**_footer(storage, name)["size"])


def read_fingerprint(storage: Storage) -> dict[str, Any]:
    """The fingerprint under which this output was planned. Raises FileNotFoundError before there is a plan."""
    stored: dict[str, Any] = _footer(storage, BASE)["fingerprint"]
    return stored


def todo(storage: Storage, committed: Set[str]) -> pa.Table:
    """The units of all plans that are not in `committed`, as rows of schemas.TODO in plan order.

    Only the column of ids is read. A row takes about 60 bytes, however many recordings its unit has.
    """
    tables = [TODO.empty_table()]
    for name in plan_names(storage):
        with _opened(storage, name) as file:
            for index in range(file.num_row_groups):
                ids = file.read_row_group(index, columns=["unit_id"], use_threads=False)["unit_id"].combine_chunks()
                places = (
                    {"unit_id": unit_id, "place": {"plan": name, "row_group": index, "first_row": first, "rows": rows}}
                    for unit_id, first, rows in _runs(ids)
                    if unit_id not in committed
                )
                tables.append(to_table(places, TODO))
    return pa.concat_tables(tables).combine_chunks()


def todo_units(storage: Storage, committed: Set[str]) -> Iterator[WorkUnit]:
    """The units of all plans that are not in `committed`, with their references, in plan order, as a stream."""
    for name in plan_names(storage):
        for planned in read_plan(storage, name, skip=committed):
            yield planned.unit


class PlanReader:
    """Reads single units by their place. It keeps the last row groups, about 5 MB each: neighbours come together."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._row_groups: dict[tuple[str, int], pa.Table] = {}  # the most recent one last

    def unit(self, unit_id: str, place: Place) -> WorkUnit:
        """The unit, or the part of it that `place` names. Raises OutputError where another unit stands there."""
        planned = list(_planned(self._row_group(place.plan, place.row_group).slice(place.first_row, place.rows)))
        if len(planned) != 1 or planned[0].unit.unit_id != unit_id or len(planned[0].unit.refs) != place.rows:
            key = plan_key(place.plan)
            raise OutputError(f"{self._storage.uri}/{key}: unit {unit_id} is not where it was planned")
        return planned[0].unit

    def _row_group(self, plan: str, index: int) -> pa.Table:
        table = self._row_groups.pop((plan, index), None)
        if table is None:
            with _opened(self._storage, plan) as file:
                exists = index < file.num_row_groups
                table = file.read_row_group(index, use_threads=False) if exists else PLAN.empty_table()
        self._row_groups[plan, index] = table
        if len(self._row_groups) > KEPT_ROW_GROUPS:
            del self._row_groups[next(iter(self._row_groups))]
        return table


def _write(path: Path, units: Iterable[PlannedUnit], fingerprint: Mapping[str, Any]) -> None:
    count, recordings, seconds, size = 0, 0, 0.0, 0
    rows: list[tuple[object, ...]] = []
    with pq.ParquetWriter(path, PLAN, compression="zstd") as writer:
        for planned in units:
            refs = planned.unit.refs
            rows.extend([_row(planned, index) for index in range(len(refs))])
            count, recordings = count + 1, recordings + len(refs)
            seconds += math.fsum([declared_seconds(ref) or 0.0 for ref in refs])
            size += sum([ref.size for ref in refs])
            if len(rows) >= ROW_GROUP:
                writer.write_table(_table(rows))
                rows = []
        if rows:
            writer.write_table(_table(rows))
        footer = {"size": asdict(PlanSize(count, recordings, seconds, size)), "fingerprint": fingerprint}
        writer.add_key_value_metadata({FOOTER.decode(): json.dumps(footer)})


def _row(planned: PlannedUnit, index: int) -> tuple[object, ...]:
    reason, samples = planned.retried[index] if planned.retried else (None, None)
    return planned.unit.unit_id, planned.part, reason, samples, *content_of(planned.unit.refs[index])


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    columns: list[Any] = list(zip(*rows, strict=True))
    sidecars = PLAN.get_field_index("sidecars")
    columns[sidecars] = [
        [{"extension": extension, "offset": offset, "size": size} for extension, offset, size in cell]
        for cell in columns[sidecars]
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, PLAN, strict=True)], schema=PLAN)


def _planned(table: pa.Table) -> Iterator[PlannedUnit]:
    columns = [_sidecars(table[name]) if name == "sidecars" else _values(table[name]) for name in PLAN.names]
    for name, rows in groupby(zip(*columns, strict=True), key=itemgetter(0)):
        held = list(rows)
        refs = tuple(RecordingRef(*row[4:]) for row in held)
        retried = tuple((row[2], row[3]) for row in held) if held[0][2] is not None else ()
        yield PlannedUnit(WorkUnit(name, refs), held[0][1], retried)


def _runs(ids: pa.Array) -> Iterator[tuple[str, int, int]]:
    """(id, first row, rows) of each run of equal ids: the rows of a unit stand together."""
    encoded = pc.run_end_encode(ids)
    ends = encoded.run_ends.to_pylist()
    for unit_id, first, end in zip(encoded.values.to_pylist(), [0, *ends], ends, strict=False):
        yield unit_id, first, end - first


def _values(column: pa.ChunkedArray) -> list[Any]:
    """As `to_pylist`, at once where there is no value at all: half of the columns of most plans."""
    return [None] * len(column) if column.null_count == len(column) else column.to_pylist()


def _sidecars(column: pa.ChunkedArray) -> list[tuple[tuple[str, int, int], ...]]:
    """The cells as tuples of (extension, offset, size), without a dict for each."""
    cells: list[tuple[tuple[str, int, int], ...]] = []
    for chunk in column.chunks:
        values = list(zip(*(field.to_pylist() for field in chunk.flatten().flatten()), strict=True))
        begin = chunk.offsets[0].as_py()  # not 0 in a slice
        cells += [tuple(values[first - begin : end - begin]) for first, end in pairwise(chunk.offsets.to_pylist())]
    return cells


def _footer(storage: Storage, name: str) -> dict[str, Any]:
    with _opened(storage, name) as file:
        footer: dict[str, Any] = json.loads(file.metadata.metadata[FOOTER])
        return footer


@contextlib.contextmanager
def _opened(storage: Storage, name: str) -> Iterator[pq.ParquetFile]:
    with storage.open(plan_key(name)) as stream:
        try:
            file = pq.ParquetFile(stream)
            matches = file.schema_arrow.names == PLAN.names and FOOTER in (file.metadata.metadata or {})
        except pa.ArrowInvalid as err:
            raise OutputError(f"{storage.uri}/{plan_key(name)}: {' '.join(str(err).split())}") from None
        if not matches:
            raise OutputError(f"{storage.uri}/{plan_key(name)}: not a plan of this version of fullcanvas")
        with file:
            yield file
