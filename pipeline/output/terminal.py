"""The output for a person at the terminal: progress on stderr, then transcripts and summary on stdout."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.output.tables import Line
from pipeline.planning.update import Changes
from pipeline.schemas import SAMPLE_RATE

LINE_SECONDS = 10.0  # between progress lines where stderr is no terminal
TABLE_ROWS = 40
EXTENSIONS = 6  # shown in the summary line
NAME_WIDTH, TEXT_WIDTH = 32, 62


class RunProgress:
    """Units and pieces done, audio hours, RTFx and the time left: a bar on a terminal, else a line every ten seconds.

    total: units of the plan. done: units committed before this run. seconds_of: seconds of audio that the plan expects
    of units, by their ids; the time left follows these and not the number of units. left: their sum over the units of
    this run. Only one thread may call `add`.
    """

    def __init__(
        self,
        total: int,
        done: int,
        seconds_of: Callable[[Sequence[str]], list[float]],
        left: float,
        *,
        every_seconds: float = LINE_SECONDS,
    ) -> None:
        self.total, self.done = total, done
        self.samples = self.dead = self.pieces = 0
        self._seconds_of, self._left, self._expected = seconds_of, left, 0.0
        self._parts: dict[str, float] = {}  # of the expected seconds, by unit of which only some pieces are done
        self._started = time.monotonic()
        self._every = every_seconds
        self._ended = threading.Event()
        self._bar: Progress | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if sys.stderr.isatty():
            columns = (
                SpinnerColumn(),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=False)
            self._task = self._bar.add_task(self._figures(), total=self.total, completed=self.done)
            self._bar.start()
        else:
            self._thread = threading.Thread(target=self._lines, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._bar:
            self._bar.stop()
        if self._thread:
            self._thread.join()
            if kind is None:
                print(self.text(), file=sys.stderr, flush=True)

    def add(self, unit_id: str, samples: int, dead: int, *, done: bool = True) -> None:
        """Count a committed unit, or (`done` False) a transcribed piece of one. samples: at 16 kHz. dead: letters."""
        (whole,) = self._seconds_of([unit_id])
        before = self._parts.pop(unit_id, 0.0)
        part = whole if done else min(whole, before + samples / SAMPLE_RATE)
        if not done:
            self._parts[unit_id] = part
        self._expected += part - before
        self.done += done
        self.pieces += done or samples > 0
        self.samples += samples
        self.dead += dead
        if self._bar:
            self._bar.update(self._task, completed=self.done, description=self._figures())

    def text(self) -> str:
        """The line of progress, now."""
        return f"{self.done} of {self.total} units · {self._figures()}"

    def _figures(self) -> str:
        seconds = max(1e-9, time.monotonic() - self._started)
        audio = self.samples / SAMPLE_RATE
        parts = [f"{self.pieces} pieces", f"{audio / 3600:.2f} h of audio", f"RTFx {audio / seconds:.1f}"]
        parts.append(f"{self.dead} dead letters")
        if self._expected > 0 and self.done < self.total:
            parts.append(f"ETA {clock(seconds * max(0.0, self._left / self._expected - 1))}")
        return " · ".join(parts)

    def _lines(self) -> None:
        while not self._ended.wait(self._every):
            print(self.text(), file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds as "1:02:03", or "2:03" below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_table(lines: Sequence[Line], recordings: int) -> None:
    """Print recording, language, text and confidence of up to TABLE_ROWS recordings; long texts are cut.

    recordings: how many there are altogether.
    """
    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = Table(box=None, pad_edge=False, header_style="bold")
    longest = max((len(plain(line.recording_id)) for line in lines[:TABLE_ROWS]), default=0)
    name_width = min(
        max(longest, len("recording")), NAME_WIDTH
    )  # on a narrow terminal the text gives way, not the name
    table.add_column("recording", overflow="ellipsis", no_wrap=True, min_width=name_width, max_width=name_width)
    table.add_column("language", no_wrap=True, min_width=8)
    text_width = max(10, min(TEXT_WIDTH, console.width - name_width - 8 - 10 - 3 * 2))
    table.add_column("text", overflow="ellipsis", no_wrap=True, max_width=text_width)
    table.add_column("confidence", justify="right", no_wrap=True, min_width=10)
    for line in lines[:TABLE_ROWS]:
        confidence = "" if line.confidence is None else f"{line.confidence:.2f}"
        table.add_row(plain(line.recording_id), line.language or "?", plain(line.text) or "(silence)", confidence)
    console.print(table, markup=False)
    shown = min(len(lines), TABLE_ROWS)
    if recordings > shown:
        console.print(f"... and {recordings - shown} more", markup=False)


def summary_line(summary: Mapping[str, Any]) -> str:
    """Recordings, segments, audio hours, dead letters by reason and pipeline_rtfx of an output, in one line."""
    reasons, problems = (
        ", ".join(f"{reason} {count}" for reason, count in summary.get(name, {}).items())
        for name in ("dead_letters", "damaged")
    )
    ignored = _by_extension(summary.get("ignored_files", {}))
    damaged, unread = (summary.get(f"recordings_{name}", 0) for name in ("damaged", "unread"))
    rtfx = summary.get("pipeline_rtfx")
    tracks, behind = (summary.get("left_out", {}).get(name, 0) for name in ("audio_tracks", "bytes"))
    parts = [
        f"{summary['recordings']} recordings",
        f"{summary['segments']} segments",
        f"{summary['audio_hours']:.3f} audio hours",
        f"{summary['recordings_dead_lettered']} dead letters" + (f" ({reasons})" if reasons else ""),
        f"{damaged} damaged ({problems})" if damaged else "",
        f"about {unread} more recordings in archives that cannot be read" if unread else "",
        f"left out by name: {ignored}" if ignored else "",
        f"{tracks} audio tracks are not recognised (source.track=all recognises all)" if tracks else "",
        f"{behind:,} bytes behind the audio are not heard" if behind else "",
        f"pipeline_rtfx {rtfx:.1f}" if rtfx is not None else "pipeline_rtfx unknown",
        "" if summary["complete"] else f"{summary['units_committed']} of {summary['units_planned']} units so far",
    ]
    return ", ".join(part for part in parts if part)


def source_line(summary: Mapping[str, Any]) -> str | None:
    """What the source has gained, changed or lost since it was planned, in one line; None: nothing."""
    found = Changes(**summary.get("source_changes", {}))
    if not found:
        return None
    return f"source: {found}" if found.taken_up else f"WARN the source has changed since it was planned: {found}"


def _by_extension(counts: Mapping[str, int]) -> str:
    """The most frequent ones first, as in "12 .txt, 3 .pdf, 5 others". counts: by extension."""
    shown = [f"{count} {'.' + plain(name) if name else 'without extension'}" for name, count in counts.items()]
    rest = sum(list(counts.values())[EXTENSIONS:])
    return ", ".join([*shown[:EXTENSIONS], *([f"{rest} others"] if rest else [])])


def plain(text: str) -> str:
    """Text from outside as one line without control characters."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())
