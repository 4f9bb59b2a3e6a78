"""What is heard of a unit that has more than one part, kept until all its parts are there and it can be committed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Set
from itertools import pairwise
from typing import Any

import pyarrow.parquet as pq

from pipeline.audio.stage import Position, position_from_json
from pipeline.schemas import UNIT_TRANSCRIBED, to_table
from pipeline.storage.base import OutputError, Storage

PREFIX = "_run/parts/"
LAST = "-last"


def save_part(storage: Storage, row: dict[str, Any]) -> bool:
    """Keep a row of UNIT_TRANSCRIBED as `_run/parts/<unit>/<part>.parquet`, once. False: there was one, which stays."""
    sink = io.BytesIO()
    pq.write_table(to_table([row], UNIT_TRANSCRIBED), sink, compression="zstd")
    last = LAST if row["next"] is None else ""
    return storage.put_if_absent(f"{PREFIX}{row['unit_id']}/{row['part']:05d}{last}.parquet", sink.getvalue())


def saved_parts(storage: Storage, unit_id: str) -> dict[int, Position]:
    """Where the part after each saved one begins, by number; the last part of the unit is left out."""
    found = {}
    for key in storage.list(f"{PREFIX}{unit_id}/"):
        if LAST in key:
            continue
        with contextlib.suppress(FileNotFoundError), storage.open(key) as stream:  # another driver has just committed
            text = pq.read_table(stream, columns=["next"], use_threads=False)["next"][0].as_py()
            found[_number(key)] = position_from_json(text)
    return found


def complete_unit(storage: Storage, unit_id: str) -> list[dict[str, Any]] | None:
    """The rows of all parts in order; None while one is missing, or where another driver has just committed the unit.

    Raises OutputError where they do not follow each other: the audio has changed between two runs.
    """
    keys = list(storage.list(f"{PREFIX}{unit_id}/"))
    if not keys or LAST not in keys[-1] or [_number(key) for key in keys] != list(range(len(keys))):
        return None
    try:
        rows = [dict(row) for key in keys for row in _rows(storage, key)]
    except FileNotFoundError:
        return None
    if any(before["next"] != after["start"] for before, after in pairwise(rows)):
        raise OutputError(
            f"{storage.uri}/{PREFIX}{unit_id}/: the parts of this unit do not follow each other, its source has "
            "changed; delete them to hear it again"
        )
    return rows


def forget_parts(storage: Storage, unit_id: str) -> None:
    """Delete the parts of a unit, which is committed."""
    for key in list(storage.list(f"{PREFIX}{unit_id}/")):
        storage.delete(key)


def forget_committed(storage: Storage, committed: Set[str]) -> None:
    """Delete the parts of committed units, which those left that came too late."""
    for key in list(storage.list(PREFIX)):
        if key.removeprefix(PREFIX).partition("/")[0] in committed:
            storage.delete(key)


def _rows(storage: Storage, key: str) -> Iterator[dict[str, Any]]:
    with storage.open(key) as stream:
        yield from pq.ParquetFile(stream).read(use_threads=False).to_pylist()


def _number(key: str) -> int:
    return int(key.rpartition("/")[2][:5])
