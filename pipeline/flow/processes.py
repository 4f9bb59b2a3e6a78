"""Which processes use processor time while the pipeline runs: seconds of all descendants of this process, by role.

Processes on other machines, or of a Ray that this process did not start, are not seen.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Self

import psutil

EVERY_SECONDS = 1.0
ROLES = {
    "GuardedReplica": "replica",
    "GuardedSecond": "second",
    "GuardedDecoder": "decode",
    "MeteredCommit": "commit",
    "spawn_main": "driver",
}
CALLED = ".submit"  # ends the title of an actor's process while it works on a bundle; before, it loads and waits
OTHER = "ray"  # gcs, raylet, agents, idle workers


class ProcessorSeconds:
    """`with ProcessorSeconds() as used:` then `used.by_role` and `used.to_start`: user and system seconds of the block.

    They are read every second. So the last second of a process may be missing.
    """

    def __init__(self) -> None:
        self._before: dict[int, float] = {}
        self._seen: dict[int, tuple[str, float]] = {}
        self._starts: dict[int, float] = {}  # by process: its seconds before it was first seen at work
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._read()
        self._before = {pid: seconds for pid, (_, seconds) in self._seen.items()}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def by_role(self) -> dict[str, float]:
        """Seconds of each role; 0 for a role without a process."""
        total = dict.fromkeys((*ROLES.values(), OTHER), 0.0)
        for pid, (role, seconds) in self._seen.items():
            total[role] += seconds - self._before.get(pid, 0.0)
        return {role: round(seconds, 2) for role, seconds in total.items()}

    def to_start(self, role: str) -> float:
        """Seconds of the processes of a role before their first bundle: they import libraries and load the model."""
        return round(sum(self._starts.get(pid, 0.0) for pid, (name, _) in self._seen.items() if name == role), 2)

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_SECONDS):
            self._read()

    def _read(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # the process has ended
                times = process.cpu_times()
                command = " ".join(process.cmdline())
                role = next((role for mark, role in ROLES.items() if mark in command), OTHER)
                known, before = self._seen.get(process.pid, (OTHER, 0.0))
                if CALLED in command:
                    self._starts.setdefault(process.pid, before)
                self._seen[process.pid] = (role if role != OTHER else known, times.user + times.system)
