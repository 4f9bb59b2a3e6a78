"""The commands of the pages, as they stand there, in one folder for each page; only the audio is ours.

What jobs.transcribe would give to Ray is transcribed in this process before the job runs: Ray takes a minute of each.
"""

from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.config import RunConfig
from pipeline.config_file import load
from tests.support.pages import Command, commands

pytest.importorskip("torch", reason="needs torch")

from pipeline.in_process import transcribe_here

ROOT = Path(__file__).parents[2]
SELF = ROOT / "pipeline/assets/evaluation/self.tar"
SPOKEN = {  # what stands for the places that a page names: recordings of the self evaluation, whose texts are known
    "/path/to/known": r".*/(en|de)/0[0-2]",
    "/path/to/archive": r".*/en/03",
    "/path/to/audio": r".*/(en|de)/0[0-2]",
}
SMALL = {  # settings besides, so that sixty recordings of a few voices do
    "--config configs/transcribe-local.yaml": ["model.name=tiny"],  # tests/jobs/test_demo.py has whisper-base
    "--config configs/labels.yaml": ["policy.target_wer={}", "policy.min_confidence={default: 0.5}"],
}


def excerpt(folder: Path, pattern: str) -> Path:
    """A .tar with some of the recordings."""
    folder.mkdir()
    with tarfile.open(SELF) as whole, tarfile.open(folder / "a.tar", "w") as part:
        for member in whole:
            if re.match(pattern, f"/{member.name}"):
                part.addfile(member, whole.extractfile(member))
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands of a page run: it has our configs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def run(folder: Path, command: Command) -> int:
    """Run it, a job in this process; its exit code."""
    text = command.text
    for place, pattern in SPOKEN.items():
        if place in text and not (folder / Path(place).name).exists():
            excerpt(folder / Path(place).name, pattern)
        text = text.replace(place, str(folder / Path(place).name))
    command = Command(command.page, text, None)
    if command.job:
        name, *words = command.job
        if name == "browse":
            return browsed(words)
        words += [word for part, extra in SMALL.items() if part in text for word in extra]
        if name == "transcribe" and "--dry-run" not in words:
            config = words[words.index("--config") + 1] if "--config" in words else None
            transcribe_here(load(RunConfig, config, [word for word in words if word not in ("--config", config)]))
        return int(importlib.import_module(f"jobs.{name}").main(words))
    assert command.words[0] == ".venv/bin/python"
    return subprocess.run([sys.executable, *command.words[1:]], check=False).returncode


def browsed(words: list[str]) -> int:
    """Start the page on a free port, look at it, and stop it; its exit code."""
    command = [sys.executable, "-m", "jobs.browse", *words, "server.port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout
        with urllib.request.urlopen(job.stdout.readline().strip()) as page:
            assert b"<audio" in page.read()
        job.terminate()
        return job.wait()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", ["README.md", "docs/archives.md"])
def test_the_commands_of_a_page_run(page: str, folder: Path) -> None:
    ours = [command for command in commands(page) if not command.mark and command.words[0] == ".venv/bin/python"]
    ours = [command for command in ours if "evaluate-self" not in command.text]  # test_evaluate_self.py runs it
    assert len(ours) > 4
    assert [run(folder, command) for command in ours] == [0] * len(ours)


@pytest.mark.timeout(600)
def test_the_way_from_transcripts_to_labels_and_to_a_training_set(folder: Path) -> None:
    *before, verdicts = (command for command in commands("docs/labels.md") if not command.mark)
    assert [run(folder, command) for command in before] == [0] * 4
    labels = pq.read_table(folder / "out/labels/labels")
    assert labels.num_rows == pq.read_table(folder / "out/archive/transcripts").num_rows > 0
    with (folder / "out/labels/audit.csv").open(newline="", encoding="utf-8") as file:
        sample = list(csv.DictReader(file))
    with (folder / "verdicts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(sample[0]))
        writer.writeheader()
        writer.writerows(row | {"errors": "0"} for row in sample)
    assert run(folder, verdicts) == 0
    (export,) = commands("docs/export.md")
    (folder / "out/mine").symlink_to(folder / "out/archive")
    assert run(folder, export) == 0
    assert list((folder / "sets/mine/train").glob("audio_*.tar"))
