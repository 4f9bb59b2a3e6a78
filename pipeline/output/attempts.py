"""Markers of attempts under way. A killed process cannot remove its marker, so leftover markers count crashes."""

from __future__ import annotations

import uuid

from pipeline.storage.base import Storage

PREFIX = "_run/attempts/"
MAX_ATTEMPTS = 3


class Attempts:
    """The markers of one stage: `_run/attempts/<piece>/<stage>-<id>`, written before an attempt, deleted after it.

    piece: "<unit>.<number>".

    A unit that shares its process with a unit that crashes it becomes a suspect too. It loses nothing by that: suspects
    run alone.
    """

    def __init__(self, storage: Storage, stage: str) -> None:
        self._storage, self._stage = storage, stage
        self._open: dict[str, list[str]] = {}

    def begin(self, piece: str) -> bool:
        """Write a marker for an attempt. False, and no marker: the unit is a suspect."""
        prefix = f"{PREFIX}{piece}/{self._stage}-"
        markers = list(self._storage.list(prefix))
        if len(markers) >= MAX_ATTEMPTS:
            return False
        markers.append(f"{prefix}{uuid.uuid4().hex[:16]}")
        self._storage.put(markers[-1], b"")
        self._open[piece] = markers
        return True

    def end(self, piece: str) -> None:
        """Delete the piece's markers of this stage: the attempt has ended, whatever came of it."""
        for marker in self._open.pop(piece, ()):
            self._storage.delete(marker)

    def condemn(self, piece: str) -> None:
        """Make the unit a suspect at once, without further attempts: it hangs."""
        for number in range(MAX_ATTEMPTS):
            self._storage.put(f"{PREFIX}{piece}/{self._stage}-condemned-{number}", b"")


def forget_all(storage: Storage) -> None:
    """Delete all markers. After a run that ended in order, those that are left blame nobody."""
    for marker in list(storage.list(PREFIX)):
        storage.delete(marker)
