"""Which units are left to do, and how much audio each has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.planning.plan import plan_names, read_columns, read_plan, withdrawn_units
from pipeline.schemas import ARCHIVE, UNIT_LEFT, WorkUnit, to_table
from pipeline.storage.base import Storage


def units_left(storage: Storage, committed: Set[str]) -> pa.Table:
    """The units of all plans that are neither in `committed` nor withdrawn, as rows of schemas.UNIT_LEFT in plan order.

    Only the column of ids is read. A row takes about 60 bytes of memory, independent of the recordings in its unit.
    """
    tables = [UNIT_LEFT.empty_table()]
    names = plan_names(storage)
    done = committed | withdrawn_units(storage, names)
    for name in names:
        for index, table in enumerate(read_columns(storage, name, ["unit_id"])):
            places = (
                {"unit_id": unit_id, "place": {"plan": name, "row_group": index, "first_row": first, "rows": rows}}
                for unit_id, first, rows in unit_runs(table["unit_id"].combine_chunks())
                if unit_id not in done
            )
            tables.append(to_table(places, UNIT_LEFT))
    return pa.concat_tables(tables).combine_chunks()


def read_units_left(storage: Storage, committed: Set[str]) -> Iterator[WorkUnit]:
    """The units that `units_left` gives, with their references: a stream in plan order."""
    names = plan_names(storage)
    done = committed | withdrawn_units(storage, names)
    for name in names:
        for planned in read_plan(storage, name, skip=done):
            yield planned.unit


class UnitSeconds:
    """Seconds of audio of each planned unit, declared or estimated. 20 bytes of memory for each unit."""

    def __init__(self, storage: Storage) -> None:
        columns = ["unit_id", "expected_seconds"]
        groups = (table for name in plan_names(storage) for table in read_columns(storage, name, columns))
        sums = [table.group_by("unit_id").aggregate([("expected_seconds", "sum")]) for table in groups]
        ids = np.concatenate([np.array(table["unit_id"].to_pylist(), "S16") for table in sums])
        seconds = np.concatenate([table["expected_seconds_sum"].to_numpy() for table in sums])
        order = np.argsort(ids)
        self._ids, self._seconds = ids[order], seconds[order].astype(np.float32)

    def of(self, units: Sequence[str]) -> list[float]:
        """Of each of these units."""
        found: list[float] = self._seconds[np.searchsorted(self._ids, np.array(units, "S16"))].tolist()
        return found


def unread_recordings(storage: Storage, committed: Set[str]) -> int:
    """About how many recordings are in archives that cannot be read and that no unit of `committed` has.

    By the bytes of these archives and the mean bytes of the other recordings; without the one that each counts as.
    """
    names = plan_names(storage)
    done = committed | withdrawn_units(storage, names)
    columns = ["unit_id", "part", "recording_id", "size", "problem"]
    known = size = archives = unread = 0
    for table in (table for name in names for table in read_columns(storage, name, columns)):
        is_archive = pc.and_(pc.is_valid(table["problem"]), pc.ends_with(table["recording_id"], ARCHIVE))
        rest = table.filter(pc.invert(is_archive))
        known, size = known + len(rest), size + (pc.sum(rest["size"]).as_py() or 0)
        for row in table.filter(is_archive).to_pylist():
            if row["part"] is not None and row["unit_id"] not in done:  # else the earlier result counts until then
                archives, unread = archives + 1, unread + row["size"]
    return max(0, round(unread * known / size) - archives) if size else 0


def unit_runs(ids: pa.Array) -> Iterator[tuple[str, int, int]]:
    """(id, first row, number of rows) of each unit: its rows have equal ids and follow each other."""
    encoded = pc.run_end_encode(ids)
    ends = encoded.run_ends.to_pylist()
    for unit_id, first, end in zip(encoded.values.to_pylist(), [0, *ends], ends, strict=False):
        yield unit_id, first, end - first
