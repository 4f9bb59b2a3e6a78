"""What tests need outside .venv: installed where FULLCANVAS_TEST_APT=1 allows it, one process at a time."""

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
    """Install the Debian `packages` unless all `programs` are there.

    Skips the test where that is not allowed or impossible (no root, no apt). Fails it where apt fails.
    """
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(shutil.which(program) for program in programs):
            return
        skip_unless_allowed(f"the Debian packages {' '.join(packages)}")
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip(f"needs the Debian packages {' '.join(packages)}, and here is no apt-get or no root")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"{' '.join(command)} failed: {done.stderr[-500:]}")


def skip_unless_allowed(what: str) -> None:
    """Skip the test unless FULLCANVAS_TEST_APT=1 allows to install `what`."""
    if os.environ.get("FULLCANVAS_TEST_APT") != "1":
        pytest.skip(f"needs {what}: FULLCANVAS_TEST_APT=1 lets the tests install it")
