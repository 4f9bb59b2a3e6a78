"""How much memory a process has taken, for tests of bounded memory."""

from __future__ import annotations

import re
from pathlib import Path


def peak_kilobytes(process: int | str = "self") -> int:
    """The peak since the process or its last reset began (getrusage would give that of the process that started it).

    process: another one's id. Raises OSError where it is gone, AssertionError where it is just going.
    """
    match = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert match is not None
    return int(match[1])


def reset_peak_kilobytes() -> int:
    """Let the peak begin anew at what is taken now, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kilobytes()
