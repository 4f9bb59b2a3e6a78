"""Drivers that a test starts as processes of their own, to kill them or to wait for their end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil

POISON = Path(__file__).parent / "poison"

# Seconds after which something that a test waits for hangs. Ray alone may take minutes to start on a busy machine.
HANG = 1200
# Seconds after which a signal has certainly ended a job: 3, and what a busy machine needs until it is seen.
STOPPED = 12.0


def held(file: Path, at: str = "LAST_BUNDLE") -> dict[str, str]:
    """The environment of a run that cannot end before this file is there.

    at: LAST_BUNDLE, for which its chain waits, or THIRD_PIECE: of a unit that has so many.
    """
    return {"PYTHONPATH": str(POISON), f"FULLCANVAS_{at}": str(file)}


def start(words: list[str], log: Path, **more: str) -> subprocess.Popen[bytes]:
    """A driver of `jobs.transcribe` with these words, which writes to `log`. more: for its environment."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "jobs.transcribe", *words]
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)


def ended(driver: subprocess.Popen[bytes], log: Path) -> tuple[int, str]:
    """The exit code of a driver, and what it has written."""
    try:
        code = driver.wait(timeout=HANG)
    finally:
        driver.kill()
        driver.wait()
    return code, log.read_text()


def finish(words: list[str], log: Path) -> None:
    """Run a driver to its end, which must be a good one."""
    code, said = ended(start(words, log), log)
    assert code == 0, said[-3000:]


def kill(driver: int, stage: str) -> bool:
    """SIGKILL a living process of `stage`, or the driver itself. Returns False if there is none at the moment."""
    root = psutil.Process(driver)
    for process in [root] if stage == "driver" else root.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if stage == "driver" or (stage in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE):
                process.kill()
                return True
    return False


def committed(output: Path) -> int:
    """How many units are committed in an output on this machine."""
    return sum(1 for _ in (output / "commits").glob("*/*.json"))
