"""How much memory this process has taken, for tests of bounded memory."""

from __future__ import annotations

import re
from pathlib import Path


def peak_kilobytes() -> int:
    """The peak since the process or its last reset began (getrusage would give that of the process that started it)."""
    match = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1])


def reset_peak_kilobytes() -> int:
    """Let the peak begin anew at what is taken now, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kilobytes()
