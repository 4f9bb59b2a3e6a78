"""Markers of running attempts. A killed process cannot remove its marker, so leftover markers count crashes."""

from __future__ import annotations

import uuid

from pipeline.storage.base import Storage

PREFIX = "_run/attempts/"
MAX_ATTEMPTS = 3  # with so many leftover markers a unit is a suspect


class Attempts:
    """The markers of one stage: `_run/attempts/<piece>/<stage>-<id>`, written before an attempt and deleted after it.

    A piece is named "<unit>.<number>". If a unit crashes its process, all units in that process become suspects. The
    innocent ones lose nothing: their recordings run alone and are transcribed.
    """

    def __init__(self, storage: Storage, stage: str) -> None:
        self._storage, self._stage = storage, stage
        self._markers: dict[str, list[str]] = {}  # of running attempts, by piece

    def begin(self, piece: str) -> bool:
        """Write a marker for an attempt. Returns False, and writes none, if the unit is a suspect."""
        prefix = f"{PREFIX}{piece}/{self._stage}-"
        markers = list(self._storage.list(prefix))
        if len(markers) >= MAX_ATTEMPTS:
            return False
        markers.append(f"{prefix}{uuid.uuid4().hex[:16]}")
        self._storage.put(markers[-1], b"")
        self._markers[piece] = markers
        return True

    def end(self, piece: str) -> None:
        """Delete the markers of a piece, also those of earlier crashes: this attempt has ended without a crash."""
        for marker in self._markers.pop(piece, ()):
            self._storage.delete(marker)

    def condemn(self, piece: str) -> None:
        """Make the unit of a piece that hangs a suspect at once."""
        for number in range(MAX_ATTEMPTS):
            self._storage.put(f"{PREFIX}{piece}/{self._stage}-condemned-{number}", b"")


def forget_all(storage: Storage) -> None:
    """Delete all markers. After a complete run they say nothing about a unit any more."""
    for marker in list(storage.list(PREFIX)):
        storage.delete(marker)
