"""Stores the recognised pieces of a unit until all of them are complete and the unit can be committed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Set
from itertools import pairwise
from typing import Any

import pyarrow.parquet as pq

from pipeline.schemas import PIECE_RECOGNISED, Position, to_table
from pipeline.storage.base import OutputError, Storage

PREFIX = "_run/pieces/"
LAST = "-last"  # in the name of the last piece of a unit


def save_piece(storage: Storage, row: dict[str, Any]) -> bool:
    """Save a row of PIECE_RECOGNISED as `_run/pieces/<unit>/<piece>.parquet`.

    Returns False if that piece is already saved; it does not change then.
    """
    sink = io.BytesIO()
    pq.write_table(to_table([row], PIECE_RECOGNISED), sink, compression="zstd")
    last = LAST if row["next"] is None else ""
    return storage.put_if_absent(f"{PREFIX}{row['unit_id']}/{row['piece']:05d}{last}.parquet", sink.getvalue())


def saved_pieces(storage: Storage, unit_id: str) -> dict[int, Position]:
    """The number of each saved piece, with the position where the next piece begins. The last piece is left out."""
    next_positions = {}
    for key in storage.list(f"{PREFIX}{unit_id}/"):
        if LAST in key:
            continue
        # Another driver may have just committed the unit and deleted its pieces.
        with contextlib.suppress(FileNotFoundError), storage.open(key) as stream:
            position = pq.read_table(stream, columns=["next"], use_threads=False)["next"][0].as_py()
            next_positions[_number(key)] = Position(**position)
    return next_positions


def complete_unit(storage: Storage, unit_id: str) -> list[dict[str, Any]] | None:
    """The rows of all pieces of a unit in order. None if one is missing or another driver has just committed the unit.

    Raises OutputError if a piece does not begin where the one before it ended: the audio changed between two runs.
    """
    keys = list(storage.list(f"{PREFIX}{unit_id}/"))
    if not keys or LAST not in keys[-1] or [_number(key) for key in keys] != list(range(len(keys))):
        return None
    try:
        rows = [row for key in keys for row in _rows(storage, key)]
    except FileNotFoundError:
        return None
    if any(before["next"] != after["start"] for before, after in pairwise(rows)):
        raise OutputError(
            f"{storage.uri}/{PREFIX}{unit_id}/: the pieces of this unit do not follow each other, so its source "
            "has changed; delete them to recognise the unit again"
        )
    return rows


def forget_pieces(storage: Storage, unit_id: str) -> None:
    """Delete the saved pieces of a committed unit."""
    for key in list(storage.list(f"{PREFIX}{unit_id}/")):
        storage.delete(key)


def forget_committed(storage: Storage, committed: Set[str]) -> None:
    """Delete the saved pieces of all committed units. A driver that was slower than another may have left some."""
    for key in list(storage.list(PREFIX)):
        if key.removeprefix(PREFIX).partition("/")[0] in committed:
            storage.delete(key)


def _rows(storage: Storage, key: str) -> Iterator[dict[str, Any]]:
    with storage.open(key) as stream:
        yield from pq.ParquetFile(stream).read(use_threads=False).to_pylist()


def _number(key: str) -> int:
    return int(key.rpartition("/")[2][:5])
