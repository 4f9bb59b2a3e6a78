"""Marks of attempts under way: what is left of them tells which units break their process."""

from __future__ import annotations

import uuid

from pipeline.storage import Storage

PREFIX = "_run/attempts/"
MAX_ATTEMPTS = 3


class Attempts:
    """The marks of one stage: `_run/attempts/<unit>/<stage>-<id>`, put before an attempt, deleted after it.

    Who is killed cannot delete, so what is left counts the attempts that ended with their process. A unit that merely
    shared its process with the culprit becomes a suspect as well; nothing is lost by that, suspects are tried alone.
    """

    def __init__(self, storage: Storage, stage: str) -> None:
        self._storage, self._stage = storage, stage
        self._open: dict[str, list[str]] = {}

    def begin(self, unit_id: str) -> bool:
        """Mark an attempt. False, and no mark: the unit is a suspect."""
        prefix = f"{PREFIX}{unit_id}/{self._stage}-"
        marks = list(self._storage.list(prefix))
        if len(marks) >= MAX_ATTEMPTS:
            return False
        marks.append(f"{prefix}{uuid.uuid4().hex[:16]}")
        self._storage.put(marks[-1], b"")
        self._open[unit_id] = marks
        return True

    def end(self, unit_id: str) -> None:
        """The attempt has come to its end, whatever that was: the unit's marks of this stage go."""
        for mark in self._open.pop(unit_id, ()):
            self._storage.delete(mark)

    def condemn(self, unit_id: str) -> None:
        """Make the unit a suspect now, without further attempts: it hangs."""
        for number in range(MAX_ATTEMPTS):
            self._storage.put(f"{PREFIX}{unit_id}/{self._stage}-condemned-{number}", b"")


def forget_all(storage: Storage) -> None:
    """Delete all marks: after a run that ended in order, where those that are left blame nobody."""
    for mark in list(storage.list(PREFIX)):
        storage.delete(mark)
