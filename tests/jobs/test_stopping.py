"""SIGINT and SIGTERM end a command with 130 and 143 within three seconds, from its first import on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.stopping import STOP_SECONDS
from tests.support.archives import archive
from tests.support.drivers import STOPPED

ROOT = Path(__file__).parents[2]
STOPS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


def started(*words: str) -> subprocess.Popen[str]:
    """A command, as soon as its first import is done: from then on the signals are blocked."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    job = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    status = Path(f"/proc/{job.pid}/status")
    if not status.exists():
        job.kill()
        pytest.skip("needs /proc")
    blocked = 0
    while not blocked & 1 << (signal.SIGTERM - 1):
        line = next(line for line in status.read_text().splitlines() if line.startswith("SigBlk:"))
        blocked = int(line.split()[1], 16)
    return job


def stopped(job: subprocess.Popen[str], number: int) -> tuple[int, float, str]:
    """Exit code, seconds until the end, and what the job said after the signal."""
    sent = time.monotonic()
    job.send_signal(number)
    code = job.wait(timeout=100)
    seconds = time.monotonic() - sent
    assert job.stderr
    return code, seconds, job.stderr.read()


def test_a_clean_end_has_less_than_three_seconds() -> None:
    assert STOP_SECONDS < 3


@STOPS
@pytest.mark.parametrize("wait", [0, 0.1, 0.5])
def test_a_signal_during_the_imports(number: int, code: int, wait: float) -> None:
    job = started("jobs.transcribe", "--config", "configs/transcribe-local.yaml", "source.uri=/in", "output.uri=/out")
    time.sleep(wait)
    ended, seconds, said = stopped(job, number)
    assert (ended, "Traceback" in said) == (code, False)
    assert "stopped" in said
    assert seconds < STOPPED


@STOPS
def test_a_signal_while_ray_starts_says_how_to_go_on(
    number: int, code: int, tmp_path: Path, small_model_dir: Path
) -> None:
    source = archive(tmp_path / "in", 1)
    words = [f"source.uri={source}", f"output.uri={tmp_path}/out", f"model.name={small_model_dir}"]
    job = started("jobs.transcribe", *words, "source.format=files", "model.device=cpu")
    assert job.stderr
    while "starting Ray" not in (line := job.stderr.readline()):
        assert line, "it ended"
    time.sleep(2)  # it is in the middle of Ray's start, which takes many seconds
    ended, seconds, said = stopped(job, number)
    assert ended == code
    assert "To go on, run the same command again" in said
    assert "Traceback" not in said
    assert seconds < STOPPED
