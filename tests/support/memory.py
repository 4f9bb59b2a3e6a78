"""How much memory a process has taken, for tests of bounded memory."""

from __future__ import annotations

import re
import threading
from pathlib import Path


def peak_kilobytes(process: int | str = "self") -> int:
    """The peak since the process or its last reset began (getrusage would give that of the process that started it).

    process: another one's id. Raises OSError where it is gone, AssertionError where it is just going.
    """
    match = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert match is not None
    return int(match[1])


class AnonymousPeak:
    """`with AnonymousPeak() as peak:` then `peak.grown_bytes`: heap that was added at most, without mapped files."""

    def __enter__(self) -> AnonymousPeak:
        self._before = self._most = _anonymous_kilobytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.grown_bytes = (self._most - self._before) * 1024

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self._most = max(self._most, _anonymous_kilobytes())


def _anonymous_kilobytes() -> int:
    match = re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1])


def reset_peak_kilobytes() -> int:
    """Let the peak begin anew at what is taken now, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kilobytes()
