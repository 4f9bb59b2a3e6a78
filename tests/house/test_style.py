"""What ruff cannot check: a function has at most 60 lines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 60  # lines, decorators not counted
LONGER: dict[str, str] = {}  # "path:function": why it may be longer


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function of a file, methods and inner functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("folder", ["pipeline", "jobs", "infra"])
def test_no_function_is_longer_than_a_screen(folder: str) -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{name}": lines
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, lines in functions(path)
    }
    assert len(lengths) > 20
    assert {name for name, lines in lengths.items() if lines > LONGEST} == {
        name for name in LONGER if name.startswith(folder)
    }
