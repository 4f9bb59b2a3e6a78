"""The jobs as processes: mistakes in one line, a clean stop, a quick resume, the error budget."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.archives import archive, arguments
from tests.support.drivers import STOPPED, held

ROOT = Path(__file__).parents[2]


def job(name: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a job to its end. more: for its environment."""
    command = [sys.executable, "-m", f"jobs.{name}", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | more, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = archive(tmp_path_factory.mktemp("jobs") / "in", 6)
    (root / "bad.wav").write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("denoise.max_step=3", "denoise.max_step: no such key; did you mean denoise.max_steps?"),
        ("source.uri=/not/there", "source.uri: "),
        ("source.language=tlh", "source.language: 'tlh' is not supported"),
        ("model.name=/not/there", "model.name: /not/there"),
        ("source.uri=", "source.uri: "),
        ("output.uri=", "output.uri: "),
        ("output.uri={file}", "output.uri: "),
        ("output.uri={file}/below", "output.uri: "),
        ("--config=/not/there.yaml", "/not/there.yaml: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    source: Path, small_model_dir: Path, tmp_path: Path, override: str, says: str
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    done = job("transcribe", *arguments(source, tmp_path / "out", small_model_dir), override.format(file=file))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("transcribing "))
    assert line.startswith(says)


def test_a_source_that_was_mistyped_does_not_spoil_the_output(
    source: Path, small_model_dir: Path, tmp_path: Path
) -> None:
    words = [*arguments(source, tmp_path / "out", small_model_dir), "plan.probe_recordings=0"]
    assert job("plan", *words, "source.uri=/not/there").returncode == 2
    done = job("plan", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:3] == ["plan", "4", "7"]


def test_other_settings_on_the_same_output_are_refused_by_name(
    source: Path, small_model_dir: Path, tmp_path: Path
) -> None:
    words = arguments(source, tmp_path / "out", small_model_dir)
    assert job("plan", *words, "plan.probe_recordings=0").returncode == 0
    done = job("transcribe", *words, "denoise.seed=1", "compute.canvases=2")
    assert done.returncode == 2
    assert "denoise.seed was 0, now 1" in done.stderr
    assert "canvases" not in done.stderr


@pytest.mark.timeout(600)
def test_stop_resume_and_budget(small_model_dir: Path, tmp_path: Path) -> None:
    """The last units are held, so that no run is over before it is stopped. The dead ones are read first."""
    source = archive(tmp_path / "in", 60, seconds=1.5)
    for number in range(12):
        (source / f"a{number:02}.wav").write_bytes(b"")
    words = [
        *arguments(source, tmp_path / "out", small_model_dir),
        "plan.unit_recordings=1",
        "budget.max_dead_fraction=0.1",
    ]
    hold, pipe = held(tmp_path / "hold"), subprocess.PIPE
    command = [sys.executable, "-m", "jobs.transcribe", *words, "budget.max_dead_fraction=1"]
    running = subprocess.Popen(command, cwd=ROOT, env=os.environ | hold, stdout=pipe, stderr=pipe, text=True)
    commits = tmp_path / "out" / "commits"
    while not list(commits.glob("*/*.json")):
        time.sleep(0.05)
        assert running.poll() is None
    below = psutil.Process(running.pid).children(recursive=True)
    assert any("GuardedReplica" in " ".join(process.cmdline()) for process in below)
    sent = time.monotonic()
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate()
    assert time.monotonic() - sent < STOPPED
    assert running.returncode == 143
    assert psutil.wait_procs(below, timeout=300)[1] == []
    assert "run the same command again" in err
    assert "Traceback" not in err

    over = job("transcribe", *words, **hold)
    assert over.returncode == 1, over.stderr
    said = r"1[1-6]\.\d% of the recordings are dead letters, budget.max_dead_fraction allows 10.0%; stopped before"
    assert re.search(said, over.stderr), over.stderr  # what is committed together counts together
    assert "dead letters (empty_file " in over.stdout
    assert " of 72 units so far" in over.stdout  # and what is committed is published

    done = job("transcribe", *words, "budget.max_dead_fraction=0.2")
    assert done.returncode == 0, done.stderr
    assert "72 recordings" in done.stdout
    assert "12 dead letters (empty_file 12)" in done.stdout
    assert str(tmp_path / "out") in done.stdout
    assert [f"r{number:03d}.wav" in done.stdout for number in range(6)] == [True] * 6

    again = job("transcribe", *words, "budget.max_dead_fraction=0.2")
    assert again.returncode == 0
    assert "Ray" not in again.stderr
    assert again.stdout == done.stdout
