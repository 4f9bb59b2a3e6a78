"""Markers of running attempts. A killed process cannot remove its marker, so leftover markers count crashes.

A job that is stopped, or ends because a store fails, leaves markers too, and no recording is to blame for those. So
markers carry the id of their run, and such a run says that it has ended.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Set

from pipeline.storage.base import Storage, delete_all

PREFIX = "_run/attempts/"
ENDED = "_run/ended/"  # one object for each run that has ended, or was stopped, by itself
MAX_ATTEMPTS = 3  # with so many leftover markers a unit is a suspect


class Attempts:
    """The markers of one stage: `_run/attempts/<piece>/<stage>-<run>-<id>`, from the start of an attempt to its end.

    A piece is named "<unit>.<number>". If a unit crashes its process, all units in that process become suspects. The
    innocent ones lose nothing: their recordings run alone and are transcribed.
    """

    def __init__(self, storage: Storage, stage: str, run: str = "0") -> None:
        """run: the id of this run of the job: letters and digits."""
        self._storage, self._stage, self._run = storage, stage, run
        self._markers: dict[str, list[str]] = {}  # of running attempts, by piece

    def begin(self, piece: str) -> bool:
        """Write a marker for an attempt. Returns False, and writes none, if the unit is a suspect."""
        prefix = f"{PREFIX}{piece}/{self._stage}-"
        markers = list(self._storage.list(prefix))
        if len(markers) >= MAX_ATTEMPTS:
            return False
        markers.append(f"{prefix}{self._run}-{uuid.uuid4().hex[:16]}")
        self._storage.put(markers[-1], b"")
        self._markers[piece] = markers
        return True

    def end(self, piece: str) -> None:
        """Delete the markers of a piece, also those of earlier crashes: this attempt has ended without a crash."""
        for marker in self._markers.pop(piece, ()):
            self._storage.delete(marker)

    def condemn(self, piece: str) -> None:
        """Make the unit of a piece that hangs a suspect at once, whatever happens to this run."""
        for number in range(MAX_ATTEMPTS):
            self._storage.put(f"{PREFIX}{piece}/{self._stage}-condemned-{number}", b"")


def at_work(storage: Storage, run: str) -> dict[str, int]:
    """How many pieces each stage of a run works on now, by its name. One of a process that has just died counts too."""
    names = {(_stage_of(key), key.rpartition("/")[0]) for key in storage.list(PREFIX) if _run_of(key) == run}
    return dict(sorted(Counter(stage for stage, _ in names).items()))


def end_run(storage: Storage, run: str) -> None:
    """Say that no crash has ended this run: attempts that were running are nobody's fault."""
    storage.put(f"{ENDED}{run}", b"")


def forget_innocent(storage: Storage, committed: Set[str]) -> None:
    """Delete the markers that say nothing against a unit: it is committed, or the marker's run has ended by itself."""
    notes = list(storage.list(ENDED))
    ended = {note.removeprefix(ENDED) for note in notes}
    delete_all(storage, [key for key in storage.list(PREFIX) if _unit_of(key) in committed or _run_of(key) in ended])
    delete_all(storage, notes)  # last: whoever is killed before leaves them to the next run


def _unit_of(marker: str) -> str:
    return marker.removeprefix(PREFIX).partition(".")[0]


def _stage_of(marker: str) -> str:
    return marker.rpartition("/")[2].split("-")[0]


def _run_of(marker: str) -> str:
    return marker.rpartition("/")[2].split("-")[1]
