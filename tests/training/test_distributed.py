"""Adapter training on Ray Train: after a kill the same command gives the weights of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.training import adapter
from tests.support.adapter_case import config, overrides, settings, write_case
from tests.support.drivers import POISON

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = {"train": {"steps": 40, "evaluate_steps": 40, "checkpoint_steps": 2}}


def job(root: Path, *, dies: bool = False, **sections: Any) -> subprocess.Popen[str]:
    """Start `jobs.train`, with relative paths, as users write them. dies: it is killed at its first checkpoint."""
    arguments = overrides(settings(Path(os.path.relpath(root)), "killed", **(STEPS | sections)))
    command = [sys.executable, "-m", "jobs.train", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(POISON), "FULLCANVAS_CHECKPOINT": "deadly"} if dies else {}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_killed_and_started_again_on_ray_the_weights_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    """It is killed while it trains in one process, and goes on in a worker of Ray Train."""
    write_case(tmp_path)
    work = tmp_path / "killed" / "work"
    first = job(tmp_path, dies=True)
    _, err = first.communicate(timeout=800)
    assert first.returncode == -signal.SIGKILL, err
    assert (work / "checkpoint.pt").exists()
    assert not (tmp_path / "killed" / "model" / "config.json").exists()

    second = job(tmp_path, compute={"workers": 1})
    out, err = second.communicate(timeout=800)
    assert second.returncode in (0, 1), err  # 1: random weights do not listen
    assert "| heldout | all" in out
    steps = [json.loads(line)["step"] for line in (work / "log.jsonl").read_text().splitlines()]
    assert steps == [0, *range(2, 42, 2), 40]
    assert (work / "ray").is_dir()  # Ray Train was there

    adapter.train_adapter(config(tmp_path, "whole", **STEPS), "")
    name = "adapter.safetensors"
    assert (tmp_path / "killed" / "model" / name).read_bytes() == (tmp_path / "whole" / "model" / name).read_bytes()


def test_a_mistake_that_a_worker_of_ray_finds_is_one_line(tmp_path: Path) -> None:
    write_case(tmp_path)
    (tmp_path / "long").mkdir()
    (tmp_path / "long/a.wav").write_bytes((tmp_path / "train/0.wav").read_bytes())
    (tmp_path / "long/a.txt").write_text("qqqqqqqqqqqqqqqq")
    run = job(tmp_path, source={"uri": str(tmp_path / "long")}, compute={"workers": 1, "max_failures": 0})
    _, err = run.communicate(timeout=800)
    assert run.returncode == 2
    assert err.splitlines()[-1] == f"source.uri: {tmp_path}/long: no text fits the canvas of 8"
    assert "Traceback" not in err
