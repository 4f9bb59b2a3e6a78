"""Debian packages that the machine lacks: installed by the fixtures of the tests, one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

LOCK = Path(tempfile.gettempdir()) / "fullcanvas-apt.lock"  # apt-get update fails where another one runs


def install(packages: tuple[str, ...], programs: tuple[str, ...]) -> None:
    """Installs `packages` unless all `programs` are there; skips the test without root or apt, fails if apt fails."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(shutil.which(program) for program in programs):
            return
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip(f"needs the Debian packages {' '.join(packages)}")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"{' '.join(command)} failed: {done.stderr[-500:]}")
