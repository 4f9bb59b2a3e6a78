"""The findings for a person and for a program: one table, and the same rows as JSON."""

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
from pipeline.doctor.rows import Row
from pipeline.output.terminal import plain

WIDE = 100  # columns; on a narrower terminal what to do stands below what was found
FOLDED = 4  # nodes; of more, what is well is shown of the first and counted for the others
COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}


def show(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the table (this machine first, then node by node) and what is wrong in one line."""
    console = console or (Console() if sys.stdout.isatty() else Console(width=120))
    checks = max(len("output race"), *(len(row.check) for row in rows))
    room = console.width - checks - len("state") - 4
    wide = console.width >= WIDE
    for node, group in groupby(folded(rows), key=lambda row: row.node):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("check", width=checks)
        table.add_column("state", width=len("state"))
        table.add_column(
            "found" if wide else "found, -> what to do", width=room * 3 // 5 if wide else room, overflow="fold"
        )
        if wide:
            table.add_column("what to do", width=room - room * 3 // 5 - 2, overflow="fold")
        for row in group:
            state = f"[{COLOURS[row.state]}]{row.state}[/]"
            cells = [_literal(row.found), _literal(row.advice)]
            if not wide:
                cells = ["\n-> ".join(cell for cell in cells if cell)]
            table.add_row(row.check, state, *cells)
        if node:
            console.print(f"\nnode {plain(node)}", markup=False, highlight=False)
        console.print(table, highlight=False)
    console.print(f"\n{verdict(rows)}", markup=False, highlight=False)


def folded(rows: Sequence[Row]) -> list[Row]:
    """Rows of many nodes without those that are well on all nodes but the first, which tells how many they are."""
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
            more = f"{row.found} (well on all {len(nodes)} nodes, here as on the first)"
            kept.append(Row(row.check, row.state, more, row.advice, row.node))
    return kept


def verdict(rows: Sequence[Row]) -> str:
    """How many checks are well, and the names of those that are not."""
    names = {state: _names(rows, state) for state in ("FAIL", "warn")}
    if names["FAIL"]:
        return f"FAIL: {names['FAIL']}" + (f"; warnings: {names['warn']}" if names["warn"] else "")
    return f"nothing fails; warnings: {names['warn']}" if names["warn"] else "nothing fails"


def write_json(rows: Sequence[Row], path: str) -> None:
    """Write the rows as a list of objects. Raises ConfigError where the file cannot be written."""
    try:
        Path(path).write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
    except OSError as err:
        raise ConfigError(f"--json: {path}: {err.strerror}") from None


def _names(rows: Sequence[Row], state: str) -> str:
    found = {f"{row.check} on {row.node}" if row.node else row.check: None for row in rows if row.state == state}
    return ", ".join(found)


def _literal(text: str) -> str:
    """Text of which rich takes nothing for its own marks."""
    return plain(text).replace("[", r"\[")
