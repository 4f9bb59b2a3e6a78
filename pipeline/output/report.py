"""OUT/report.html: one self-contained page with the counts, the books, what failed and a sample of transcripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from pipeline.output.tables import Line, language_hours, sample_letters, sample_lines
from pipeline.schemas import REASONS
from pipeline.storage.base import Storage

SAMPLE = 100  # recordings and dead letters shown
_STYLE = """
:root{color-scheme:light dark;--ink:#222;--line:#ddd;--paper:#fff;--bad:#a00;--good:#060}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--line:#3a424d;--paper:#14181d;--bad:#ff8a80;--good:#7dd895}}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:var(--ink);
background:var(--paper)}
h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin-top:2rem}p{overflow-wrap:anywhere}
div{overflow-x:auto}table{border-collapse:collapse;width:100%}table.wide{min-width:40rem}
th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line)}
td{overflow-wrap:anywhere}table.narrow{max-width:30rem}.bad{color:var(--bad)}.good{color:var(--good)}
"""


def write_report(storage: Storage, summary: Mapping[str, Any], accounting: Mapping[str, Any]) -> None:
    """Write report.html from what is published."""
    page = render(
        storage.uri,
        summary,
        accounting,
        language_hours(storage),
        sample_lines(storage, SAMPLE),
        sample_letters(storage, SAMPLE),
    )
    storage.put("report.html", page.encode())


def render(
    uri: str,
    summary: Mapping[str, Any],
    accounting: Mapping[str, Any],
    hours: Mapping[str, float],
    lines: Sequence[Line],
    letters: Sequence[Mapping[str, str | None]],
) -> str:
    """The page as text. Everything that comes from outside is escaped; nothing is loaded from elsewhere."""
    rtfx = summary.get("pipeline_rtfx")
    counts = [
        ("recordings", summary["recordings"]),
        ("transcribed", summary["recordings_transcribed"]),
        ("dead-lettered", summary["recordings_dead_lettered"]),
        ("segments", summary["segments"]),
        ("audio hours", f"{summary['audio_hours']:.3f}"),
        ("pipeline_rtfx", "" if rtfx is None else f"{rtfx:.1f}"),
        ("units", f"{summary['units_committed']} of {summary['units_planned']}"),
        ("published", summary["published"]),
    ]
    seconds = [
        (name, f"{accounting[f'seconds_{name}']:.3f}") for name in ("in", "transcribed", "silence", "dead_lettered")
    ]
    closed = '<b class="good">closed</b>' if accounting["closed"] else '<b class="bad">not closed</b>'
    complaints = "".join(f'<p class="bad">{escape(complaint)}</p>' for complaint in accounting["complaints"])
    reasons = [(reason, REASONS[reason], count) for reason, count in summary["dead_letters"].items()]
    shown = [
        (
            line.recording_id,
            line.language or "?",
            line.text,
            "" if line.confidence is None else f"{line.confidence:.2f}",
        )
        for line in lines
    ]
    failed = [
        (
            row["recording_id"],
            row["reason"],
            row["error"],
            "/".join(filter(None, (row["source_uri"], row["source_member"]))),
        )
        for row in letters
    ]
    parts = [
        f"<h1>Transcripts in {escape(uri)}</h1>",
        _table(("", ""), counts),
        f"<h2>Books: {closed}</h2>{complaints}",
        _table(("seconds", ""), seconds),
        "<h2>Hours of segments by language</h2>",
        _table(("language", "hours"), [(name, f"{value:.4f}") for name, value in hours.items()]),
        "<h2>Dead letters by reason</h2>",
        _table(("reason", "meaning", "recordings"), reasons),
        f"<h2>Dead letters (first {len(failed)})</h2>" if failed else "",
        _table(("recording", "reason", "error", "source"), failed) if failed else "",
        f"<h2>Transcripts (first {len(shown)} recordings)</h2>",
        _table(("recording", "language", "text", "confidence"), shown),
    ]
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>fullcanvas report</title><style>{_STYLE}</style>"
    )
    return head + "\n".join(parts) + "</html>\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    cells = ("".join(f'<td dir="auto">{escape(str(cell))}</td>' for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells) or "<tr><td>none</td></tr>"
    kind = "wide" if len(header) > 2 else "narrow"
    return f'<div tabindex="0"><table class="{kind}"><tr>{head}</tr>{body}</table></div>'
