"""What a person reads at the terminal: the figures of a run, the table of transcripts, the summary in a line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.output.tables import Line
from pipeline.planning.update import Changes

PLANNING, STARTING, TRANSCRIBING, PUBLISHING = PHASES = ("planning", "starting Ray", "transcribing", "publishing")
TABLE_ROWS = 40
EXTENSIONS = 6  # shown in the summary line
NAME_WIDTH, TEXT_WIDTH = 32, 62


def progress_line(figures: Mapping[str, Any]) -> str:
    """The figures of a run (output/progress.py) in one line: "transcribing · 3 of 8 units · ... · ETA 0:41"."""
    if not figures["units_total"]:
        return f"{figures['state']} · {clock(figures['seconds'])}"
    units = f"{figures['units_done']:,} of {figures['units_total']:,} units"
    dead = by_reason(figures["dead_letters"], "dead letters")
    parts = [figures["state"], units, _speed(figures), dead, _at_work(figures), _eta(figures)]
    return " · ".join(part for part in parts if part)


def progress_view(figures: Mapping[str, Any]) -> RenderableType:
    """The same for a terminal: a row for each phase with its time, then speed, time left, dead letters by reason."""
    phases = Table.grid(padding=(0, 2))
    for name in dict.fromkeys([*PHASES, *figures["phases"]]):
        seconds = figures["phases"].get(name)
        is_now = name == figures["state"]
        mark = "▶" if is_now else "✓" if seconds is not None else " "
        row: list[RenderableType] = [
            Text(f"{mark} {name}", style="bold" if is_now else ""),
            Text("" if seconds is None else clock(seconds), justify="right"),
        ]
        if name == TRANSCRIBING and figures["units_total"]:
            done, total = figures["units_done"], figures["units_total"]
            row += [
                ProgressBar(total=total, completed=done, width=16),
                Text(f"{done:,} of {total:,} units  {_at_work(figures)}"),
            ]
        phases.add_row(*row)
    if not figures["units_total"]:
        return phases
    second = " · ".join(part for part in (_speed(figures), _eta(figures)) if part)
    return Group(phases, Text(f"  {second}"), Text(f"  {by_reason(figures['dead_letters'], 'dead letters')}"))


def _speed(figures: Mapping[str, Any]) -> str:
    return f"{figures['audio_seconds'] / 3600:.2f} h of audio · RTFx {figures['rtfx'] or 0:.1f}"


def by_reason(counts: Mapping[str, int], name: str) -> str:
    """As "3 dead letters (not_audio 2, empty_file 1)". counts: by reason. name: of what is counted."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    return f"{sum(counts.values())} {name}" + (f" ({reasons})" if reasons else "")


def _at_work(figures: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{stage} {count}" for stage, count in figures["at_work"].items())
    return f"pieces at work: {stages}" if stages else ""


def _eta(figures: Mapping[str, Any]) -> str:
    """As "ETA 0:41 (0:30 to 1:02)"; without an interval where none is known."""
    seconds, low, high = (figures[name] for name in ("eta_seconds", "eta_low", "eta_high"))
    if seconds is None:
        return ""
    between = f" ({clock(low)} to {clock(high) if high is not None else '?'})" if low is not None else ""
    return f"ETA {clock(seconds)}{between}"


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
