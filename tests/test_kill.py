"""kill -9 at random moments, the same command again: every recording once, the books closed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.archives import archive, arguments

RECORDINGS = 240  # 60 units of 4
LIVES = 3  # of the driver that end with its own kill
KILLS = ("GuardedDecoder",) * 3 + ("GuardedReplica",) * 3 + ("driver",)  # in each life; 21 in all
SEED = 20


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "jobs.transcribe", *words]
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | {"OMP_NUM_THREADS": "1"})


def kill(driver: int, stage: str) -> bool:
    """kill -9 a living process of `stage` below the driver, or the driver itself. False: there is none now."""
    root = psutil.Process(driver)
    for process in [root] if stage == "driver" else root.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if stage == "driver" or (stage in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE):
                process.kill()
                return True
    return False


def check(driver: subprocess.Popen[bytes], stage: str, deadline: float) -> None:
    assert driver.poll() is None, f"the driver ended before the kill of {stage}"
    assert time.monotonic() < deadline
    time.sleep(0.05)


def committed(output: Path) -> int:
    return sum(1 for _ in (output / "commits").glob("*/*.json"))


@pytest.mark.timeout(600)
def test_twenty_one_kills_lose_nothing_and_double_nothing(tmp_path: Path, small_model_dir: Path) -> None:
    chance = random.Random(SEED)
    source = archive(tmp_path / "in", RECORDINGS)
    (source / "r010b.wav").write_bytes(b"")
    words = arguments(source, tmp_path / "out", small_model_dir)
    log = tmp_path / "log"
    kills: Counter[str] = Counter()
    deadline = time.monotonic() + 540
    for _ in range(LIVES):
        driver = start(words, log)
        try:
            for stage in KILLS:
                # Decode actors run ahead and end early: they come first, at any time. The others wait for some commits.
                wanted = 0 if stage == "GuardedDecoder" else committed(tmp_path / "out") + chance.randrange(4)
                while committed(tmp_path / "out") < wanted:
                    check(driver, stage, deadline)
                time.sleep(chance.uniform(0, 1.5))
                while not kill(driver.pid, stage):
                    check(driver, stage, deadline)
                kills[stage] += 1
        finally:
            driver.kill()
            driver.wait()
    assert kills == {"GuardedDecoder": 9, "GuardedReplica": 9, "driver": 3}
    last = start(words, log)
    try:
        assert last.wait(timeout=max(1, deadline - time.monotonic())) == 0, log.read_text()[-3000:]
    finally:
        last.kill()
    rows = pq.read_table(tmp_path / "out/transcripts", columns=["recording_id", "segment_index"]).to_pylist()
    letters = pq.read_table(tmp_path / "out/dead_letters", columns=["recording_id", "reason"]).to_pylist()
    assert max(Counter((row["recording_id"], row["segment_index"]) for row in rows).values()) == 1
    assert {row["recording_id"] for row in rows} == {f"r{number:03d}.wav" for number in range(RECORDINGS)}
    assert letters == [{"recording_id": "r010b.wav", "reason": "empty_file"}]
    assert json.loads((tmp_path / "out/_run/accounting.json").read_text())["closed"]
