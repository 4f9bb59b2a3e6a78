"""Three runs, each with its share of one output on a real Ceph gateway and one cluster: killed, they end exactly."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.output.publish import SUMMARY
from pipeline.storage.base import open_storage
from tests.support.bucket_runs import check_exact, committed, upload, words_for
from tests.support.drivers import HANG, held
from tests.support.ray_cluster import ROOT, RayCluster, ray_nodes

SHARES = 3
RECORDINGS = 90
KILLS = ((3, SHARES), (12, 1))  # with so many commits so many runs are killed, one after the other
SEED = 5


def start(cluster: RayCluster, words: list[str], share: int, log: Path, hold: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.transcribe", *words, f"run.partition={share}/{SHARES}"]
    environment = os.environ | cluster.environment | {"RAY_ADDRESS": f"127.0.0.1:{cluster.gcs_port}"} | held(hold)
    with log.open("wb") as stream:
        return subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, env=environment)


@pytest.mark.timeout(HANG + 300)
def test_three_shares_that_are_killed_at_random_fill_one_output_and_the_last_publishes(
    bucket: str, tmp_path: Path, small_model_dir: Path
) -> None:
    dice = random.Random(SEED)
    source = upload(bucket, tmp_path / "in", RECORDINGS)
    words = [*words_for(source, bucket, small_model_dir), "denoise.max_steps=32"]
    storage = open_storage(bucket)
    logs = {share: tmp_path / f"share-{share}" for share in range(1, SHARES + 1)}
    deadline, hold = time.monotonic() + HANG, tmp_path / "hold"
    kills = 0
    with ray_nodes() as cluster:  # with the keys of the bucket in its environment
        runs = {share: start(cluster, words, share, log, hold) for share, log in logs.items()}  # all of them plan
        try:
            for wanted, count in KILLS:
                while committed(bucket) < wanted:
                    assert time.monotonic() < deadline, [log.read_text()[-1000:] for log in logs.values()]
                    time.sleep(0.05)
                assert not storage.exists(SUMMARY)
                for share in dice.sample(sorted(runs), count):
                    time.sleep(dice.uniform(0, 0.5))
                    kills += runs[share].poll() is None
                    runs[share].kill()
                    runs[share].wait()
                    runs[share] = start(cluster, words, share, logs[share], hold)
            hold.touch()
            for share, run in runs.items():
                assert run.wait(timeout=max(1, deadline - time.monotonic())) == 0, logs[share].read_text()[-3000:]
        finally:
            for run in runs.values():
                run.kill()
                run.wait()
    assert kills == sum(count for _, count in KILLS)
    said = [log.read_text() for log in logs.values()]
    assert any(f"{RECORDINGS} recordings" in text for text in said)
    assert all((f"{RECORDINGS} recordings" in text) != ("units of other shares are left" in text) for text in said)
    check_exact(bucket, RECORDINGS)
