"""What SECURITY.md promises of our code: nothing that is read from a store or a disk can run as code."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline import config_file
from pipeline.schemas import SCHEMA_VERSION

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("pipeline", "jobs") for path in (ROOT / folder).rglob("*.py"))
UNPICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
RUNS_CODE = {"read_pickle", "load_pickle", "unsafe_load", "full_load"}  # of pandas, yaml and others


def offences(tree: ast.AST) -> Iterator[str]:
    """What in a module could turn bytes into code: imports and calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]}
        else:
            names = set()
        yield from names & UNPICKLES
        if isinstance(node, ast.Call):
            yield from offending_call(node)


def offending_call(node: ast.Call) -> Iterator[str]:
    """What is wrong with a call."""
    called = ast.unparse(node.func)
    said = {word.arg: ast.unparse(word.value) for word in node.keywords}
    if called in ("eval", "exec", "numpy.load", "np.load") or called.split(".")[-1] in RUNS_CODE:
        yield called
    if called == "torch.load" and said.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if called == "yaml.load" and said.get("Loader") != "_Loader":
        yield "yaml.load with another loader"
    if said.get("trust_remote_code", "False") != "False":
        yield "trust_remote_code"


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from dill import loads", "torch.load(p)", "torch.load(p, weights_only=no)", "eval(text)"),
        *(
            "yaml.load(t, Loader=yaml.Loader)",
            "pandas.read_pickle(p)",
            "AutoModel.from_pretrained(p, trust_remote_code=t)",
        ),
    ],
)
def test_the_rule_finds_what_runs_code(line: str) -> None:
    assert list(offences(ast.parse(line)))


def test_nothing_is_unpickled_and_no_code_is_read() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {offence}"
        for path in FILES
        for offence in offences(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert len(FILES) > 100
    assert found == set()
    assert issubclass(config_file._Loader, yaml.SafeLoader)


READ = """
import sys
from pipeline import read_transcripts
from pipeline.evaluation.rows import outcomes
from pipeline.output.publish import publish_tables
from pipeline.storage.base import open_storage

def refuse(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError(f"unpickles {arguments}")

sys.addaudithook(refuse)
storage = open_storage(sys.argv[1])
publish_tables(storage)
print(len(outcomes(storage)), len(read_transcripts(sys.argv[1])))
import pickle
try:
    pickle.loads(pickle.dumps(refuse))
except RuntimeError:
    print("the guard works")
"""


def test_an_output_is_published_and_read_without_unpickling_anything(tmp_path: Path) -> None:
    output = shutil.copytree(ROOT / f"tests/data/output-{SCHEMA_VERSION}", tmp_path / "out")
    shutil.rmtree(output / "transcripts")
    words = [sys.executable, "-c", READ, str(output)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["2 2", "the guard works"], done.stderr
