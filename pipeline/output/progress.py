"""The progress of a run: a view on a terminal, else a line every 30 s; and a sign of life in the output."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import platform
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live

from pipeline import logs
from pipeline.config import public
from pipeline.output.attempts import at_work
from pipeline.output.pace import Pace
from pipeline.output.terminal import PLANNING, TRANSCRIBING, plain, progress_line, progress_view
from pipeline.schemas import SAMPLE_RATE
from pipeline.storage.base import Storage

LINE_SECONDS, FIRST_SECONDS = 30.0, 5.0  # between lines where stderr is no terminal, and before the first
SIGN_SECONDS = 30.0  # between two signs of life
LAST_SECONDS = 1.0  # the last sign waits so long for the one before
SIGNS = "_run/progress/"  # of each share the last sign of its last run
DONE, STOPPED, FAILED = ENDS = ("done", "stopped", "failed")  # how a run ends, if its process is not killed

log = logging.getLogger(__name__)


class RunProgress:
    """Phases, units, audio hours, RTFx, dead letters and time left of one run, from its first second to its end.

    The time left follows the expected seconds of audio, not the number of units. Only one thread may call `add`.
    """

    def __init__(
        self, share: str | None = None, *, every_seconds: float = LINE_SECONDS, first_seconds: float = FIRST_SECONDS
    ) -> None:
        """share: run.partition."""
        self.total = self.done = self.samples = 0
        self.storage: Storage | None = None  # where signs of life are written; None: not known yet
        self.run: str | None = None  # the id of the run in markers and logs
        self._share = (share or "1/1").replace("/", "of")
        self._failed: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}  # by reason: dead letters, damaged
        self._pace = Pace(0)
        self._seconds_of: Callable[[Sequence[str]], list[float]] = lambda units: [0.0] * len(units)
        self._parts: dict[str, float] = {}  # of the expected seconds, by unit of which only some pieces are done
        self._at_work: dict[str, int] = {}
        self._error: str | None = None
        self._state, self._since = PLANNING, time.monotonic()
        self._phases: dict[str, float] = {}  # seconds of those that have ended
        self._started, self._started_at = time.monotonic(), datetime.now(UTC)
        self._begun = self._started  # the transcription
        self._every, self._first = every_seconds, first_seconds
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._live: Live | None = None
        self._lines: threading.Thread | None = None
        self._stderr: TextIO = sys.stderr

    def __enter__(self) -> Self:
        self._stderr = _own_stderr()
        if self._stderr.isatty() and not logs.is_json():
            console = Console(file=self._stderr)
            view = lambda: progress_view(self.figures())  # noqa: E731
            self._live = Live(get_renderable=view, console=console, redirect_stdout=False, refresh_per_second=2)
            self._live.start()
        else:
            self._lines = self._every_so_often(self._say, self._first, self._every)
        self._every_so_often(self.sign, SIGN_SECONDS, SIGN_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)
        if self._live:
            self._live.stop()
        if self._lines:
            self._lines.join()
        if self._stderr is not sys.stderr:
            self._stderr.close()

    def end(self, error: BaseException | None = None) -> None:
        """The last sign of life: how the run has ended. Only the first call counts. error: None: it ended well."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._enter(DONE if error is None else FAILED if isinstance(error, Exception) else STOPPED)
        self._error = public(plain(str(error)))[:500] if isinstance(error, Exception) else None
        self._at_work = {}
        is_lost = isinstance(error, OSError)  # then the output may be, and a put would wait for it
        if self.storage and not is_lost and self._lock.acquire(timeout=LAST_SECONDS):
            with contextlib.suppress(OSError):
                self._put(self.storage)
            self._lock.release()

    def phase(self, name: str) -> None:
        """Begin one of the phases that terminal.py names. The transcription ends with its last figures."""
        if self._state == TRANSCRIBING and not self._live:
            self._say()
        self._enter(name)
        if self.storage:
            self.sign()

    def begin(self, total: int, done: int, seconds_of: Callable[[Sequence[str]], list[float]], left: float) -> None:
        """The transcription begins.

        total: units of the plan. done: units committed before this run. seconds_of: seconds of audio that the plan
        expects of units, by their ids. left: their sum over the units of this run.
        """
        self.total, self.done = total, done
        self._seconds_of, self._pace = seconds_of, Pace(left)
        self.phase(TRANSCRIBING)
        self._begun = time.monotonic()

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Count a committed unit, or (not `done`) a piece of one. receipt: a row of RECEIPT (output/stage.py)."""
        unit_id, done = receipt["unit_id"], receipt["done"]
        (whole,) = self._seconds_of([unit_id])
        before = self._parts.pop(unit_id, 0.0)
        part = whole if done else min(whole, before + receipt["samples"] / SAMPLE_RATE)
        if not done:
            self._parts[unit_id] = part
        self._pace.add(time.monotonic() - self._begun, part - before)
        self.done += done
        self.samples += receipt["samples"]
        for row in receipt["failed"]:
            self._failed[row["dead"]][row["reason"]] += 1
        _log(receipt)

    def figures(self) -> dict[str, Any]:
        """All figures, now: what a sign of life says. Seconds; None: not known."""
        now = time.monotonic()
        seconds = (
            now if self._state == TRANSCRIBING else self._begun + self._phases.get(TRANSCRIBING, 0)
        ) - self._begun
        audio = self.samples / SAMPLE_RATE
        running = self._state == TRANSCRIBING and self.done < self.total
        phases = self._phases | ({} if self._state in ENDS else {self._state: now - self._since})
        left = self._pace.left(seconds) if running else None
        return {
            "state": self._state,
            "share": self._share,
            "run": self.run,
            "host": platform.node(),
            "started": self._started_at.isoformat(timespec="seconds"),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(now - self._started, 1),
            "phases": {name: round(took, 1) for name, took in phases.items()},
            "units_done": self.done,
            "units_total": self.total,
            "audio_seconds": round(audio, 3),
            "rtfx": round(audio / seconds, 3) if seconds > 0 else None,
            "eta_seconds": left and round(left.seconds, 1),
            "eta_low": left and left.low and round(left.low, 1),
            "eta_high": left and left.high and round(left.high, 1),
            "dead_letters": dict(self._failed[True].most_common()),
            "damaged": dict(self._failed[False].most_common()),
            "at_work": self._at_work,
            "error": self._error,
        }

    def sign(self) -> None:
        """Write a sign of life to the output, if it can be reached now."""
        if self.storage is None:
            return
        with contextlib.suppress(OSError), self._lock:
            if self._state == TRANSCRIBING and self.run:
                self._at_work = at_work(self.storage, self.run)
            if not self._ended.is_set():
                self._put(self.storage)

    def _put(self, storage: Storage) -> None:
        storage.put(f"{SIGNS}{self._share}.json", json.dumps(self.figures()).encode())

    def _enter(self, state: str) -> None:
        now = time.monotonic()
        self._phases = self._phases | {self._state: now - self._since}
        self._state, self._since = state, now

    def _say(self) -> None:
        figures = self.figures()
        if logs.is_json():
            log.info("%s", progress_line(figures), extra={"fields": figures})
        else:
            print(progress_line(figures), file=self._stderr, flush=True)

    def _every_so_often(self, action: Callable[[], None], first: float, every: float) -> threading.Thread:
        """Call `action` in a thread of its own until the end of the run. A store that is slow delays no line."""

        def loop() -> None:
            wait = first
            while not self._ended.wait(wait):
                action()
                wait = every

        thread = threading.Thread(target=loop, daemon=True, name="progress")
        thread.start()
        return thread


def _log(receipt: Mapping[str, Any]) -> None:
    """A line for a unit, and one for each recording that failed. Only JSON logs have them."""
    if not receipt["done"] or not logs.units.isEnabledFor(logging.INFO):
        return
    unit = {"unit": receipt["unit_id"]}
    for row in receipt["failed"]:
        fields = unit | {"recording": row["recording"], "reason": row["reason"]}
        logs.units.warning("dead letter" if row["dead"] else "damaged", extra={"fields": fields})
    counts = {name: receipt[name] for name in ("recordings", "segments", "dead")}
    seconds = {"audio_seconds": receipt["samples"] / SAMPLE_RATE}
    logs.units.info("committed", extra={"fields": unit | counts | seconds})


def _own_stderr() -> TextIO:
    """Stderr of its own: while Ray starts, the other one leads nowhere."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="replace")
    except (OSError, io.UnsupportedOperation, AttributeError):  # no file
        return sys.stderr
