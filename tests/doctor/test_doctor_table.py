"""The table of the doctor: narrow and wide, many nodes in few lines, nothing taken for markup."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config import ConfigError
from pipeline.doctor.rows import Result
from pipeline.doctor.table import folded, show, verdict, write_json

ADVICE = "make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130"
ROWS = [
    Result("torch", "FAIL", "torch 2.13.0+cpu, [red]no CUDA[/red]", ADVICE),
    Result("hub", "warn", "x" * 200),
    Result("gpu", "ok", "one", node="10.0.0.3"),
]


def text(width: int) -> str:
    out = io.StringIO()
    show(ROWS, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_every_row_is_whole_and_within_the_width(width: int) -> None:
    lines = text(width).splitlines()
    assert max(map(len, lines)) <= width
    assert "".join(lines).count("x") == 200
    assert "[red]no CUDA[/red]" in text(width)
    assert "node 10.0.0.3" in lines
    assert lines[-1] == "FAIL: torch; warnings: hub"


def test_a_command_is_not_torn_apart_on_a_narrow_terminal() -> None:
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cu130" in text(80)


def test_of_many_nodes_only_what_differs_is_shown_for_each() -> None:
    nodes = [f"10.0.0.{number}" for number in range(9)]
    rows = [Result("ray", "ok", "9 nodes")]
    for node in nodes:
        rows += [Result("memory", "ok", "all", node=node)]
        rows += [Result("gpu", "FAIL" if node == nodes[4] else "ok", "", node=node)]
    shown = folded(rows)
    assert [row.node for row in shown if row.check == "memory"] == [nodes[0]]
    assert "ok on all 9 nodes" in next(row.finding for row in shown if row.check == "memory")
    assert [row.node for row in shown if row.check == "gpu"] == nodes
    assert verdict(rows) == "FAIL: gpu on 10.0.0.4"
    assert folded(rows[:9]) == rows[:9]


def test_the_verdict_names_what_is_wrong_or_nothing() -> None:
    assert verdict([Result("a", "ok", "")]) == "nothing fails"
    assert verdict([Result("a", "ok", ""), Result("b", "warn", "")]) == "nothing fails; warnings: b"


def test_rows_are_written_as_json(tmp_path: Path) -> None:
    write_json(ROWS, str(tmp_path / "rows.json"))
    read = json.loads((tmp_path / "rows.json").read_text())
    assert read[0] == {"check": "torch", "state": "FAIL", "finding": ROWS[0].finding, "advice": ADVICE, "node": ""}
    with pytest.raises(ConfigError, match=r"--json: /proc/rows\.json: "):
        write_json(ROWS, "/proc/rows.json")
