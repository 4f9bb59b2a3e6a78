"""OUT/report.html: one self-contained page with the counts, the accounting, what failed and a sample of transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.output.page import render_page
from pipeline.output.tables import Line, language_hours, sample_letters, sample_lines
from pipeline.schemas import REASONS
from pipeline.storage.base import Storage

SAMPLE = 100  # recordings and dead letters shown
_SECONDS = (  # label and what accounting.json calls it
    *(("in", "in"), ("transcribed", "transcribed"), ("silence", "silence")),
    *(("damaged", "lost"), ("dead-lettered", "dead_lettered")),
)


def write_report(storage: Storage, summary: Mapping[str, Any], accounting: Mapping[str, Any]) -> None:
    """Write report.html from what is published."""
    text = render(
        storage.uri,
        summary,
        accounting,
        language_hours(storage),
        sample_lines(storage, SAMPLE),
        sample_letters(storage, SAMPLE),
    )
    storage.put("report.html", text.encode())


def render(
    uri: str,
    summary: Mapping[str, Any],
    accounting: Mapping[str, Any],
    hours: Mapping[str, float],
    lines: Sequence[Line],
    letters: Sequence[Mapping[str, str | None]],
) -> str:
    """The page as text. Everything that comes from outside is escaped; nothing is loaded from elsewhere.

    summary: of `publish`. accounting: accounting.json. hours: by language. lines, letters: as `tables` samples them.
    """
    rtfx = summary.get("pipeline_rtfx")
    return render_page(
        "run.html.j2",
        uri=uri,
        accounting=accounting,
        counts=[
            ("recordings", f"{summary['recordings']:,}"),
            ("transcribed", f"{summary['recordings_transcribed']:,}"),
            ("dead letters", f"{summary['recordings_dead_lettered']:,}"),
            ("segments", f"{summary['segments']:,}"),
            ("audio hours", f"{summary['audio_hours']:,.3f}"),
            ("pipeline_rtfx", "unknown" if rtfx is None else f"{rtfx:.1f}"),
            ("units", f"{summary['units_committed']:,} of {summary['units_planned']:,}"),
            ("published", summary["published"]),
        ],
        seconds=[(label, f"{accounting[f'seconds_{name}']:,.3f}") for label, name in _SECONDS],
        hours=[(language, f"{value:,.4f}") for language, value in hours.items()],
        reasons=[(reason, REASONS[reason], f"{count:,}") for reason, count in summary["dead_letters"].items()],
        letters=[
            {**letter, "source": "/".join(filter(None, (letter["source_uri"], letter["source_member"])))}
            for letter in letters
        ],
        lines=lines,
    )
