"""A terminal that cannot show everything, names outside ASCII, a package that is missing: no traceback, right code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.flow.suspects import users_error
from pipeline.missing import missing_package

ROOT = Path(__file__).parents[2]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, check=False)


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a terminal whose encoding is ISO-8859-1."""
    folder = tmp_path_factory.mktemp("locale")
    try:
        command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US")]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as err:
        pytest.skip(f"localedef cannot make a locale: {err}")
    return {"LOCPATH": str(folder), "LC_ALL": "en_US"}


def planned(tmp_path: Path, environment: dict[str, str]) -> tuple[subprocess.CompletedProcess[bytes], list[str]]:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("鱼.wav", "café.wav"):
        (source / name).write_bytes(b"RIFF")
    words = ["jobs.plan", f"source.uri={source}", f"output.uri={tmp_path}/鱼", "source.format=files", "model.name=tiny"]
    done = run(*words, "plan.probe_recordings=0", **environment)
    return done, pq.read_table(tmp_path / "鱼/_run/plan.parquet")["recording_id"].to_pylist()


def test_letters_that_the_terminal_cannot_show_are_replaced(tmp_path: Path, latin_1: dict[str, str]) -> None:
    done, ids = planned(tmp_path, latin_1)
    assert (done.returncode, b"Traceback" in done.stdout + done.stderr) == (0, False), done.stderr
    assert f"{tmp_path}/?".encode() in done.stdout
    assert sorted(ids) == ["café.wav", "鱼.wav"]  # names are those of the files, whatever the locale


def test_a_locale_without_an_encoding_shows_utf_8(tmp_path: Path) -> None:
    done, ids = planned(tmp_path, {"LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/鱼".encode() in done.stdout
    assert sorted(ids) == ["café.wav", "鱼.wav"]


def test_the_exit_code_stays_where_an_error_cannot_be_shown(latin_1: dict[str, str]) -> None:
    done = run("jobs.plan", "--config", "/nowhere/鱼", "output.uri=/nowhere/out", **latin_1)
    assert (done.returncode, done.stderr) == (2, b"/nowhere/?: No such file or directory\n")


def test_a_missing_package_is_one_line_that_names_the_lock(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'pydantic'\", name='pydantic')\n"
    )
    done = run("jobs.transcribe", "--help", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == missing_package("No module named 'pydantic'") + "\n"
    assert "pip install -r requirements.lock" in done.stderr.decode()


def test_a_package_that_a_node_of_the_cluster_lacks_is_the_same_line() -> None:
    trace = "Traceback (most recent call last):\n  File x\nModuleNotFoundError: No module named 'av'"
    assert str(users_error(RuntimeError(trace))) == missing_package("No module named 'av'")


def test_what_a_clusters_python_needs_is_where_clusters_are_explained() -> None:
    for page in ("README.md", "infra/README.md"):
        text = " ".join((ROOT / page).read_text().split())
        assert "pip install -r requirements.lock" in text
        assert "Python 3.11" in text
