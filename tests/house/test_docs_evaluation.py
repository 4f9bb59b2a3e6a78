"""docs/evaluation.md: its files and commands are what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import evaluate
from pipeline.config_file import load
from pipeline.evaluation.settings import EvaluateConfig

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\S*)\n(.*?)^```", (ROOT / "docs/evaluation.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line)[3:] for name, text in BLOCKS if not name for line in text.splitlines() if "jobs.evaluate" in line
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page and the audio that its manifest names."""
    for name, text in BLOCKS:
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
    for audio in ("en-novel.flac", "en-phone.flac"):
        shutil.copy(ROOT / "pipeline/assets/people" / audio, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_without_a_model_do_what_the_page_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [words for words in COMMANDS if "--config" not in words]
    assert len(words) == 2
    assert [evaluate.main(each) for each in words] == [0, 0]
    shown = capsys.readouterr().out
    assert "12.50 %" in shown  # one of eight words
    assert "again minus theirs" in shown
    assert (folder / "out/theirs/reports/index.html").exists()
    assert (folder / "out/two/comparison.json").exists()
    (path,) = (folder / "out/theirs/results").glob("*.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert {"rates", "settings", "about"} <= result.keys()
    assert {"metric", "group", "key", "rate"} <= result["rates"][0].keys()


def test_the_settings_of_every_other_command_exist(folder: Path) -> None:
    configured = [words for words in COMMANDS if "--config" in words]
    assert len(configured) == 4
    for words in configured:
        config, *settings = words[1:]
        at_hand = [each for each in settings if not each.startswith("--") and each != "summary.md"]
        load(EvaluateConfig, config, at_hand)


def shown(folder: Path, words: list[str]) -> str:
    """What the command shows when it is called in this folder; its exit code is 0."""
    command = [sys.executable, "-m", "jobs.evaluate", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_DIR": "/nonexistent"}  # somebody may commit in between
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_nightly_of_the_page_runs(folder: Path) -> None:
    words = [words for words in COMMANDS if "nightly.yaml" in words]
    assert len(words) == 3
    assert "no earlier evaluation is called mine" in shown(folder, [*words[0], "compute.replicas_max=1"])
    assert "differs from mine-" not in shown(folder, [*words[1], "run=tomorrow", "compute.replicas_max=1"])
    assert "en domain: novel" in (folder / "out/mine/report.html").read_text(encoding="utf-8")
    assert (folder / "summary.md").read_text(encoding="utf-8").startswith("## Passed: mine-tomorrow")
    assert load(EvaluateConfig, words[2][1], words[2][2:]).keep_as == "release-7"
