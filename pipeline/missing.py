"""The line for a package that this Python lacks. This module imports none, so it works where any of them is missing."""

from __future__ import annotations

import sys


def missing_package(error: str) -> str:
    """The line for a package that this Python lacks. error: "No module named 'av'"."""
    return (
        f"{error}: {sys.executable} lacks a package that the jobs need: install those of requirements.lock into it, on "
        "every node of a cluster (pip install -r requirements.lock)"
    )
