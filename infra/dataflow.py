"""Draw the way of a recording, infra/dataflow.svg, with the names of the code: `python -m infra.dataflow`.

A name that changes in the code changes in the picture; a test compares the two.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.audio.stage import DecodeStage
from pipeline.flow.guard import GuardedDecoder, GuardedReplica, MeteredCommit
from pipeline.model.stage import Replica
from pipeline.output.commit import commit_unit
from pipeline.output.publish import publish_tables
from pipeline.output.stage import RECEIPT, CommitStage
from pipeline.planning.left import units_left
from pipeline.planning.pack import pack_units
from pipeline.planning.plan import ensure_plan
from pipeline.schemas import PIECE_DECODED, PIECE_RECOGNISED, UNIT_LEFT
from pipeline.sources.formats import list_recordings

PICTURE = Path(__file__).with_name("dataflow.svg")
WIDTH, BOX, GAP, MARGIN = 1009, 210, 53, 5  # pixels; 4 boxes, 3 gaps, 2 margins: 4 * 210 + 3 * 53 + 2 * 5 = 1009
ROWS = (("driver", "#eef3f8", "#5b7a99"), ("Ray actors", "#fdf0e1", "#b9782c"), ("driver", "#eef3f8", "#5b7a99"))
ROW_HEIGHT, BOX_HEIGHT = 206, 96

BOXES: list[list[tuple[tuple[Any, ...], str]]] = [  # per row: what stands in a box, and what it does
    [
        ((list_recordings,), "one pointer for each recording, no audio is read"),
        ((pack_units,), "bounded units; an id is the hash of its content"),
        ((ensure_plan,), "_run/plan.parquet, written once"),
        ((units_left,), "ids and places of the units that are not committed"),
    ],
    [
        ((GuardedDecoder, DecodeStage), "reads by range, decodes, resamples to 16 kHz, cuts segments"),
        ((GuardedReplica, Replica), "one engine denoises canvases of several units at once"),
        ((MeteredCommit, CommitStage), "joins segments, writes transcripts and dead letters"),
        ((commit_unit,), "data under the attempt's own name, then one conditional put: commits/<unit>.json"),
    ],
    [((publish_tables,), "follows commits only: transcripts/, dead_letters/, accounting.json, report.html")],
]
ARROWS: list[list[tuple[str, pa.Schema | None]]] = [  # per row: what travels between two boxes
    [("RecordingRef", None), ("WorkUnit", None), ("PLAN", None)],
    [("PIECE_DECODED", PIECE_DECODED), ("PIECE_RECOGNISED", PIECE_RECOGNISED), ("TRANSCRIPT, DEAD_LETTER", None)],
    [],
]


def draw() -> str:
    """The picture as SVG text."""
    height = (len(ROWS) - 1) * ROW_HEIGHT + BOX_HEIGHT + 34
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        "<title>The way of a recording through fullcanvas</title>",
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 10 5 0 10z" fill="#444"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for row in range(len(ROWS)):
        lines += _row(row)
    return "\n".join([*lines, "</svg>", ""])


def _row(row: int) -> Iterator[str]:
    place, fill, stroke = ROWS[row]
    top = row * ROW_HEIGHT + 24
    yield f'<text x="{MARGIN}" y="{top - 8}" fill="{stroke}" font-weight="bold">{place}</text>'
    for column, (items, caption) in enumerate(BOXES[row]):
        yield from _box(MARGIN + column * (BOX + GAP), top, items, caption, fill, stroke)
    for column, (name, schema) in enumerate(ARROWS[row]):
        yield from _arrow(MARGIN + (column + 1) * (BOX + GAP) - GAP, top, name, schema)
    if row + 1 < len(ROWS):  # from the last box down and back to the first of the next row
        x, y, target = WIDTH - MARGIN - BOX // 2, top + BOX_HEIGHT, top + ROW_HEIGHT - 22
        first = MARGIN + BOX // 2
        name, schema = (("UNIT_LEFT", UNIT_LEFT), ("RECEIPT", RECEIPT))[row]
        yield (
            f'<path d="M{x} {y}v{target - y - 12}H{first}v12" fill="none" stroke="#444" stroke-width="1.5" '
            'marker-end="url(#a)"/>'
        )
        label = f'<tspan font-weight="bold">{name}</tspan> <tspan font-size="10">{", ".join(schema.names)}</tspan>'
        yield f'<text x="{WIDTH // 2}" y="{target - 17}" text-anchor="middle" fill="#444">{label}</text>'


def _box(x: int, y: int, items: tuple[Any, ...], caption: str, fill: str, stroke: str) -> Iterator[str]:
    yield f'<rect x="{x}" y="{y}" width="{BOX}" height="{BOX_HEIGHT}" rx="8" fill="{fill}" stroke="{stroke}"/>'
    at = y + 18
    for item in items:
        file = item.__module__.removeprefix("pipeline.").replace(".", "/") + ".py"
        yield f'<text x="{x + 10}" y="{at}" font-weight="bold" fill="#222">{escape(item.__name__)}</text>'
        yield f'<text x="{x + BOX - 8}" y="{at}" text-anchor="end" font-size="10" fill="#666">{escape(file)}</text>'
        at += 17
    for line in textwrap.wrap(caption, 33):
        yield f'<text x="{x + 10}" y="{at + 2}" fill="#222">{escape(line)}</text>'
        at += 16


def _arrow(x: int, y: int, name: str, schema: pa.Schema | None) -> Iterator[str]:
    middle = x + GAP // 2
    yield f'<path d="M{x} {y + 46}h{GAP}" fill="none" stroke="#444" stroke-width="1.5" marker-end="url(#a)"/>'
    anchor = 'text-anchor="middle"'
    yield f'<text x="{middle}" y="{y + BOX_HEIGHT + 16}" {anchor} font-weight="bold" fill="#444">{name}</text>'
    columns = textwrap.wrap(", ".join(schema.names), 34) if schema is not None else []
    for number, line in enumerate(columns):
        at = y + BOX_HEIGHT + 30 + 12 * number
        yield f'<text x="{middle}" y="{at}" {anchor} font-size="10" fill="#666">{escape(line)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
