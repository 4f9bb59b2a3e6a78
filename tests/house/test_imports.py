"""The order of the house: a folder imports only folders before it, in no circle, and Ray stays where it belongs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = (  # as DESIGN.md draws the house: the way of the data, then what is built on it
    *("missing", "config", "config_file", "logs", "schemas", "text"),
    *("storage", "sources", "planning", "audio", "model", "output"),
    *("flow", "forecast", "run", "in_process", "notebook", "evaluation", "calibration"),
    *("labels", "export", "browse", "training", "doctor", "benchmark"),
)
RAY = ("pipeline/flow/", "pipeline/training/")
STATIONS = ("sources", "planning", "audio", "model", "output")
LAZY = {  # imports of our own inside a function, with their reasons
    ("pipeline/__init__.py", "pipeline.notebook"): "`import pipeline` costs nothing",
    ("pipeline/notebook.py", "pipeline.in_process"): "torch is loaded only in processes that hold a model",
    (
        "pipeline/run.py",
        "pipeline.flow.chain",
    ): "Ray reads its environment, which flow.cluster sets, when it is imported",
    (
        "pipeline/export/run_export.py",
        "pipeline.flow.tasks",
    ): "Ray reads its environment, which flow.cluster sets, when it is imported",
    ("pipeline/flow/guard.py", "pipeline.model.stage"): "torch is loaded only in processes that hold a model",
    ("pipeline/flow/chain.py", "pipeline.model.stage"): "torch is loaded only in processes that hold a model",
    ("pipeline/benchmark/readers.py", "pipeline.audio.decode"): "a reader is measured with its own libraries alone",
    ("pipeline/model/denoise/head.py", "pipeline.model.denoise.vocabulary_head_triton"): "triton is optional",
    **{
        ("pipeline/doctor/model_check.py", module): "a broken torch is a row of the doctor, not its end"
        for module in ("pipeline.model.memory", "pipeline.model.files.conversion", "pipeline.model.files.importer")
    },
}


@cache
def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path) for folder in ("pipeline", "jobs", "infra") for path in sources(folder)}


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, and whether inside a function or under a condition."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        lazy = id(node) not in top
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield (module if module in MODULES else node.module), lazy


def ours(path: Path) -> Iterator[tuple[str, bool]]:
    """As `imported`, our own modules only."""
    return (
        (name, lazy) for name, lazy in imported(path) if name.split(".")[0] in ("pipeline", "jobs", "infra", "tests")
    )


def folder_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", sources("pipeline"), ids=name_of)
def test_a_folder_imports_only_folders_before_it(path: Path) -> None:
    own = folder_of(name_of(path))
    for module, _ in ours(path):
        assert module.startswith("pipeline"), f"{module}: not part of what is installed"
        if (folder := folder_of(module)) and own:
            assert ORDER.index(folder) <= ORDER.index(own), f"{own} comes before {folder} in the house"


def test_every_folder_has_its_place() -> None:
    assert {folder_of(module) for module in MODULES if module.startswith("pipeline.")} <= set(ORDER)


def test_our_own_modules_are_imported_at_the_top_of_a_file() -> None:
    lazy = {
        (str(path.relative_to(ROOT)), module) for path in sources("pipeline") for module, inside in ours(path) if inside
    }
    assert lazy <= LAZY.keys()


def test_no_module_imports_itself_over_others() -> None:
    edges = {name_of(path): {module for module, _ in ours(path)} for path in sources("pipeline")}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way, module))}"
        if module not in done:
            for target in edges.get(module, ()):
                visit(target, (*way, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_only_the_chain_and_the_training_import_ray() -> None:
    users = {
        str(path.relative_to(ROOT))
        for folder in ("pipeline", "jobs", "infra")
        for path in sources(folder)
        if any(name.split(".")[0] == "ray" for name, _ in imported(path))
    }
    assert [user for user in users if not user.startswith(RAY)] == []
    assert "pipeline/flow/chain.py" in users


def test_the_chain_uses_a_station_only_through_its_stage() -> None:
    for path in sources("pipeline/flow"):
        for module, _ in ours(path):
            assert folder_of(module) not in STATIONS or module.endswith(".stage"), f"{path.name} imports {module}"


def test_no_function_is_called_like_its_module() -> None:
    for path in sources("pipeline"):
        names = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}
        assert path.stem not in names, f"{path.relative_to(ROOT)}: an import of it would hide the module"
