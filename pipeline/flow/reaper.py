"""Ends the processes of a Ray session when its driver has ended, however that ended.

Ray ties its raylet to the driver, but the agents of the raylet try for a minute or more to reach a cluster that is
gone. `python -I reaper.py FOLDER` waits until its standard input closes, which the driver's end does. It uses the
standard library only, so that it is small and starts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

GRACE_SECONDS = 5.0  # in which Ray's processes may end by themselves
TRIES = 10  # at most, a second apart: a process may start another one while it ends


def holders(folder: str) -> list[int]:
    """Processes of this user that have a file below `folder` open. Empty without /proc.

    Neither this process counts nor its parent: a driver whose Ray has ended has its logs open, and may have more to do.
    """
    found = []
    apart = (os.getpid(), os.getppid())
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to somebody else
            if process.stat().st_uid == os.getuid() and int(process.name) not in apart:
                opened = (str(link.readlink()) for link in (process / "fd").iterdir())
                if any(path.startswith(f"{folder}/") for path in opened):
                    found.append(int(process.name))
    return found


def end_all(folder: str) -> None:
    """Kill every process that has a file below `folder` open."""
    for _ in range(TRIES):
        found = holders(folder)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(1)


if __name__ == "__main__":
    while sys.stdin.buffer.read(1):
        pass
    time.sleep(GRACE_SECONDS)
    end_all(sys.argv[1])
