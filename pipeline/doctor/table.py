"""The rows for people, as one table, and for programs, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.config import ConfigError
from pipeline.doctor.rows import Result
from pipeline.output.terminal import plain

WIDE = 100  # columns; on a narrower terminal the advice stands below the finding
FOLDED = 4  # nodes; with more nodes, rows that are ok everywhere are shown for the first node only
COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}


def show(rows: Sequence[Result], console: Console | None = None) -> None:
    """Print the table, this machine first, then node by node, and one line that sums it up."""
    console = console or (Console() if sys.stdout.isatty() else Console(width=120))
    checks = max(len("output race"), *(len(row.check) for row in rows))
    room = console.width - checks - len("state") - 4
    wide = console.width >= WIDE
    for node, group in groupby(folded(rows), key=lambda row: row.node):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("check", width=checks)
        table.add_column("state", width=len("state"))
        table.add_column(
            "finding" if wide else "finding, -> what to do", width=room * 3 // 5 if wide else room, overflow="fold"
        )
        if wide:
            table.add_column("what to do", width=room - room * 3 // 5 - 2, overflow="fold")
        for row in group:
            state = f"[{COLOURS[row.state]}]{row.state}[/]"
            cells = [_literal(row.finding), _literal(row.advice)]
            if not wide:
                cells = ["\n-> ".join(cell for cell in cells if cell)]
            table.add_row(row.check, state, *cells)
        if node:
            console.print(f"\nnode {plain(node)}", markup=False, highlight=False)
        console.print(table, highlight=False)
    console.print(f"\n{verdict(rows)}", markup=False, highlight=False)


def folded(rows: Sequence[Result]) -> list[Result]:
    """Leave out rows of many nodes that are ok on all of them, except on the first node, whose row says so."""
    nodes = {row.node for row in rows if row.node}
    if len(nodes) <= FOLDED:
        return list(rows)
    bad = {row.check for row in rows if row.node and row.state != "ok"}
    first = next(row.node for row in rows if row.node)
    kept = []
    for row in rows:
        if not row.node or row.check in bad:
            kept.append(row)
        elif row.node == first:
            more = f"{row.finding} (ok on all {len(nodes)} nodes, shown for the first)"
            kept.append(Result(row.check, row.state, more, row.advice, row.node))
    return kept


def verdict(rows: Sequence[Result]) -> str:
    """The names of the checks that are not ok, in one line."""
    names = {state: _names(rows, state) for state in ("FAIL", "warn")}
    if names["FAIL"]:
        return f"FAIL: {names['FAIL']}" + (f"; warnings: {names['warn']}" if names["warn"] else "")
    return f"nothing fails; warnings: {names['warn']}" if names["warn"] else "nothing fails"


def write_json(rows: Sequence[Result], path: str) -> None:
    """Write the rows as a list of objects. Raises ConfigError if the file cannot be written."""
    try:
        Path(path).write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
    except OSError as err:
        raise ConfigError(f"--json: {path}: {err.strerror}") from None


def _names(rows: Sequence[Result], state: str) -> str:
    names = {f"{row.check} on {row.node}" if row.node else row.check: None for row in rows if row.state == state}
    return ", ".join(names)


def _literal(text: str) -> str:
    """The text so that rich shows it as it is, brackets included."""
    return plain(text).replace("[", r"\[")
