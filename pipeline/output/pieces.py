"""Stores the recognised pieces of a unit until all of them are complete and the unit can be committed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Set
from itertools import pairwise
from typing import Any

import pyarrow as pa

from pipeline.output.commit import encoded
from pipeline.schemas import PIECE_RECOGNISED, Position, to_table
from pipeline.storage.base import OutputError, Storage, delete_all, in_order, undamaged

PREFIX = "_run/pieces/"
LAST = "-last"  # in the name of the last piece of a unit
LOCKS = 256  # units at work at the same time are few; two that share a lock wait for each other


class PieceJoiner:
    """Joins the pieces of units. All pieces of a unit come through one joiner, in any order, or are saved before.

    It lists the store once, when it starts: which units wait for an earlier piece, because their last one is saved.
    Threads may share it if each holds `lock(unit)` from `join` until the pieces of a joined unit are forgotten.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting = {_unit_of(key): _number(key) for key in storage.list(PREFIX) if LAST in key}
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def lock(self, unit_id: str) -> threading.Lock:
        """The lock of a unit, which some other units have too."""
        return self._locks[int(unit_id, 16) % LOCKS]

    def join(self, row: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The rows of all pieces of a unit in order, if this row of PIECE_RECOGNISED is the only one that is not saved.

        Else it is saved, and the result is None. So it is if another driver has just committed the unit.
        Raises OutputError if a piece does not begin where the one before it ended: the audio changed between two runs.
        """
        unit_id = row["unit_id"]
        if row["next"] is None:
            before = _saved(self._storage, [_key(unit_id, number) for number in range(row["piece"])])
            if before is not None:
                return self._checked(unit_id, [*before, row])
            self._waiting[unit_id] = row["piece"]
        save_piece(self._storage, row)
        if row["next"] is None or unit_id not in self._waiting:
            return None
        rows = _saved(self._storage, _keys(unit_id, self._waiting[unit_id]))
        return None if rows is None else self._checked(unit_id, rows)

    def forget(self, unit_id: str, pieces: int) -> None:
        """Delete the saved pieces of a committed unit, which had so many."""
        self._waiting.pop(unit_id, None)
        delete_all(self._storage, _keys(unit_id, pieces - 1))

    def _checked(self, unit_id: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if any(before["next"] != after["start"] for before, after in pairwise(rows)):
            raise OutputError(
                f"{self._storage.uri}/{PREFIX}{unit_id}/: the pieces of this unit do not follow each other, so its "
                "source has changed; delete them to recognise the unit again"
            )
        return rows


def save_piece(storage: Storage, row: dict[str, Any]) -> bool:
    """Save a row of PIECE_RECOGNISED as `_run/pieces/<unit>/<piece>.arrow`.

    Returns False if that piece is already saved; it does not change then.
    """
    key = _key(row["unit_id"], row["piece"], is_last=row["next"] is None)
    return storage.put_if_absent(key, encoded(to_table([row], PIECE_RECOGNISED)))


def saved_pieces(storage: Storage, unit_id: str) -> dict[int, Position]:
    """The number of each saved piece, with the position where the next piece begins. The last piece is left out."""
    next_positions = {}
    for key in storage.list(f"{PREFIX}{unit_id}/"):
        if LAST in key:
            continue
        # Another driver may have just committed the unit and deleted its pieces.
        with contextlib.suppress(FileNotFoundError), undamaged(_named(storage, key)), storage.open(key) as stream:
            position = pa.ipc.open_file(stream).read_all()["next"][0].as_py()
            next_positions[_number(key)] = Position(**position)
    return next_positions


def forget_committed(storage: Storage, committed: Set[str]) -> None:
    """Delete the saved pieces of all committed units. A driver that was slower than another may have left some."""
    delete_all(storage, [key for key in storage.list(PREFIX) if _unit_of(key) in committed])


def _saved(storage: Storage, keys: list[str]) -> list[dict[str, Any]] | None:
    """The saved pieces at these keys; None if one is missing. The last come first: these are the missing ones."""
    try:
        bodies = list(in_order(storage.get, reversed(keys), storage.parallel))
    except FileNotFoundError:
        return None
    rows: list[dict[str, Any]] = []
    for key, body in zip(keys, reversed(bodies), strict=True):
        with undamaged(_named(storage, key)):
            rows += pa.ipc.open_file(body).read_all().to_pylist()
    return rows


def _keys(unit_id: str, last: int) -> list[str]:
    """The keys of all pieces of a unit. last: the number of its last piece."""
    return [_key(unit_id, number, is_last=number == last) for number in range(last + 1)]


def _key(unit_id: str, number: int, *, is_last: bool = False) -> str:
    return f"{PREFIX}{unit_id}/{number:05d}{LAST if is_last else ''}.arrow"


def _named(storage: Storage, key: str) -> str:
    """A piece in an error about it."""
    return f"{storage.uri}/{key}, which is recognised again when it is deleted"


def _unit_of(key: str) -> str:
    return key.removeprefix(PREFIX).partition("/")[0]


def _number(key: str) -> int:
    return int(key.rpartition("/")[2][:5])
