"""Marks of attempts under way: what is left of them tells which units break their process."""

from __future__ import annotations

import uuid

from pipeline.storage.base import Storage

PREFIX = "_run/attempts/"
MAX_ATTEMPTS = 3


class Attempts:
    """The marks of one stage: `_run/attempts/<part>/<stage>-<id>`, put before an attempt, deleted after it.

    part: "<unit>.<number>".

    Who is killed cannot delete, so what is left counts the attempts that ended with their process. A unit that merely
    shared its process with the culprit becomes a suspect as well; nothing is lost by that, suspects are tried alone.
    """

    def __init__(self, storage: Storage, stage: str) -> None:
        self._storage, self._stage = storage, stage
        self._open: dict[str, list[str]] = {}

    def begin(self, part: str) -> bool:
        """Mark an attempt. False, and no mark: its unit is a suspect."""
        prefix = f"{PREFIX}{part}/{self._stage}-"
        marks = list(self._storage.list(prefix))
        if len(marks) >= MAX_ATTEMPTS:
            return False
        marks.append(f"{prefix}{uuid.uuid4().hex[:16]}")
        self._storage.put(marks[-1], b"")
        self._open[part] = marks
        return True

    def end(self, part: str) -> None:
        """The attempt has come to its end, whatever that was: the part's marks of this stage go."""
        for mark in self._open.pop(part, ()):
            self._storage.delete(mark)

    def condemn(self, part: str) -> None:
        """Make its unit a suspect now, without further attempts: it hangs."""
        for number in range(MAX_ATTEMPTS):
            self._storage.put(f"{PREFIX}{part}/{self._stage}-condemned-{number}", b"")


def forget_all(storage: Storage) -> None:
    """Delete all marks: after a run that ended in order, where those that are left blame nobody."""
    for mark in list(storage.list(PREFIX)):
        storage.delete(mark)
