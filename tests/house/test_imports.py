"""Who may import Ray: every stage runs in a plain test without it (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAY_IMPORT_RAY = {
    "pipeline/flow/chain.py",
    "pipeline/flow/cluster.py",
    "pipeline/flow/suspects.py",
    "pipeline/training/distributed.py",
}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def test_only_the_flow_and_its_processes_import_ray() -> None:
    sources = [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/**/*.py")]
    users = {
        str(path.relative_to(ROOT)) for path in sources if any(name.split(".")[0] == "ray" for name in imports(path))
    }
    assert users <= MAY_IMPORT_RAY
    assert "pipeline/flow/chain.py" in users
