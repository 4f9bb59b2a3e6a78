"""The whole job from bucket to bucket on a real Ceph gateway: whatever is killed, every recording is there once."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.bucket_runs import check_exact, committed, upload, words_for
from tests.support.ceph import Ceph
from tests.support.drivers import HANG, finish, held, kill, start

ENDINGS = ["replica and raylet", "gateway and driver"]  # what is killed for each driver, after a decode actor
RECORDINGS = 205


@pytest.mark.timeout(HANG + 300)
def test_whatever_is_killed_every_recording_is_there_once(
    ceph: Ceph, bucket: str, tmp_path: Path, small_model_dir: Path
) -> None:
    dice = random.Random(1)
    source = upload(bucket, tmp_path / "in", RECORDINGS)
    words = words_for(source, bucket, small_model_dir)
    log = tmp_path / "log"
    seen: Counter[str] = Counter()
    for ending in dice.sample(ENDINGS, len(ENDINGS)):
        before = committed(bucket)
        driver = start(words, log, **held(tmp_path / "hold"))
        try:
            deadline = time.monotonic() + HANG
            wanted = min(before + dice.randint(3, 12), RECORDINGS - 20)  # the last bundle is held
            while committed(bucket) < wanted:
                assert driver.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
            for stage in ["GuardedDecoder", *ending.split(" and ")]:
                time.sleep(dice.uniform(0, 2.0))
                seen[stage] += 1
                if stage == "gateway":
                    ceph.kill_gateway()
                    time.sleep(5)
                    ceph.start_gateway()
                elif stage == "replica":
                    kill(driver.pid, "GuardedReplica")
                elif stage == "raylet":
                    assert kill(driver.pid, "raylet/raylet")
                    assert driver.wait(timeout=HANG) not in (0, 2)  # it does not report success without its cluster
                else:
                    kill(driver.pid, stage)
        finally:
            driver.kill()
            driver.wait()
    assert seen == {"GuardedDecoder": 2, "replica": 1, "raylet": 1, "gateway": 1, "driver": 1}
    assert committed(bucket) < RECORDINGS
    finish(words, log)
    check_exact(bucket, RECORDINGS)
