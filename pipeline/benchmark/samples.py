"""Samples of all processes that a process has started: memory, files and threads of each, by its role."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import psutil

from pipeline.flow.processes import ROLES

DRIVER, WORKER, OTHER = "driver", "other worker", "other"
MARKS = (  # what a command line has in it, and the role
    *((mark, role) for mark, role in ROLES.items() if role != DRIVER),
    ("ray/core/src/ray/raylet/raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("runtime_env/agent", "runtime env agent"),
    ("ray::RuntimeEnvAgent", "runtime env agent"),
    ("dashboard/agent.py", "dashboard agent"),
    ("ray::DashboardAgent", "dashboard agent"),
    ("dashboard/dashboard.py", "dashboard"),
    ("log_monitor.py", "log monitor"),
    ("autoscaler", "autoscaler"),
    ("reaper.py", "reaper"),
    ("ray::", WORKER),
)


class Sample(NamedTuple):
    """One process at one time. seconds: since the start of the soak. started: of the process, tells equal pids apart.

    memory_mb: resident, and of no other process. shared_mb: resident, and others may have it too: code, and what it has
    read of Ray's object store, whose size is fixed.
    """

    seconds: float
    role: str
    pid: int
    started: float
    memory_mb: float
    shared_mb: float
    files: int
    threads: int


def role_of(command: str) -> str:
    """The role of a process with this command line."""
    return next((role for mark, role in MARKS if mark in command), OTHER)


class Sampler:
    """Samples the processes of one driver after the other. A process keeps the role in which it was first seen.

    Ray changes the title of a process while it works, and a worker without work may become something else.
    """

    def __init__(self) -> None:
        self._roles: dict[tuple[int, float], str] = {}

    def take(self, seconds: float, driver: int) -> list[Sample]:
        """A sample of the driver and of each of its descendants, those that end meanwhile left out."""
        taken = []
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(driver)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    taken.append(self._sample(process, seconds, is_driver=process == root))
        return taken

    def _sample(self, process: psutil.Process, seconds: float, *, is_driver: bool) -> Sample:
        with process.oneshot():
            key = (process.pid, process.create_time())
            role = DRIVER if is_driver else role_of(" ".join(process.cmdline()))
            if role in (OTHER, WORKER):
                role = self._roles.get(key, role)
            self._roles[key] = role
            memory = process.memory_info()
            return Sample(
                round(seconds, 1),
                role,
                process.pid,
                round(process.create_time(), 2),
                round((memory.rss - memory.shared) / 1e6, 2),
                round(memory.shared / 1e6, 2),
                process.num_fds(),
                process.num_threads(),
            )


def size_of(folder: Path) -> int:
    """The bytes that the files below a folder take on the disk."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it has just been deleted
            total += path.lstat().st_blocks * 512
    return total
