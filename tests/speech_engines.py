"""Makes sure that espeak-ng is there for the tests that speak: installs Debian's package where it is missing."""

from __future__ import annotations

import shutil
import subprocess


def install_espeak() -> None:
    """Raises CalledProcessError if espeak-ng is missing and cannot be installed (no root, no Debian, no network)."""
    if shutil.which("espeak-ng"):
        return
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "espeak-ng"], check=True)
