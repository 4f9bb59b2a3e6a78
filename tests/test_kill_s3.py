"""The whole job from bucket to bucket on a real Ceph gateway, whatever is killed: all there once, the books closed."""

from __future__ import annotations

import io
import json
import random
import signal
import tarfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage import open_storage
from tests.archives import arguments, wav
from tests.ceph import Ceph
from tests.test_kill import kill, start

SHARDS = 3
ENDINGS = ("replica and raylet", "gateway and driver")  # of the lives of a driver, each after a decode actor was killed


def upload(bucket: str, folder: Path, recordings: int) -> str:
    """Tars of short wavs; returns their prefix as a source."""
    source = bucket.removesuffix("/out") + "/in"
    storage = open_storage(source)
    for shard in range(SHARDS):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for number in range(shard, recordings, SHARDS):
                path = folder / f"r{number:03d}.wav"
                wav(path, 1.2 + number / 1000, number)
                archive.add(path, path.name)
        storage.put(f"shard-{shard}.tar", packed.getvalue())
    return source


def words_for(source: str, bucket: str, model: Path) -> list[str]:
    words = [word for word in arguments(Path("/unused"), Path("/unused"), model) if "uri=" not in word]
    words = [word.replace("source.format=files", "source.format=webdataset") for word in words]
    return [*words, f"source.uri={source}", f"output.uri={bucket}", "plan.unit_recordings=1", "compute.canvases=16"]


def committed(bucket: str) -> int:
    return sum(1 for _ in open_storage(bucket, create=False).list("commits/"))


def check_exact(bucket: str, recordings: int) -> None:
    """Read as others read it: straight from the bucket."""
    storage = open_storage(bucket, create=False)
    parts = []
    for key in storage.list("transcripts/"):
        with storage.open(key) as stream:
            parts.append(pq.read_table(stream, columns=["recording_id", "segment_index"]))
    rows = pa.concat_tables(parts).to_pylist()
    assert max(Counter((row["recording_id"], row["segment_index"]) for row in rows).values()) == 1
    names = {f"shard-{number % SHARDS}/r{number:03d}" for number in range(recordings)}
    assert {row["recording_id"] for row in rows} == names
    books = json.loads(storage.get("_run/accounting.json"))
    assert books["closed"]
    assert books["units_committed"] == recordings
    samples = sum(round((1.2 + number / 1000) * 16_000) for number in range(recordings))
    assert books["samples_in"] == samples


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("seed", "recordings", "lives"), [(1, 205, 2), (2, 80, 1), (5, 60, 1)])
def test_whatever_is_killed_every_recording_is_there_once(
    ceph: Ceph, bucket: str, tmp_path: Path, small_model_dir: Path, seed: int, recordings: int, lives: int
) -> None:
    dice = random.Random(seed)
    source = upload(bucket, tmp_path / "in", recordings)
    words = words_for(source, bucket, small_model_dir)
    log = tmp_path / "log"
    seen: Counter[str] = Counter()
    for ending in dice.sample(ENDINGS, lives):
        before = committed(bucket)
        driver = start(words, log)
        try:
            deadline = time.monotonic() + 150
            while committed(bucket) < before + dice.randint(3, 12):
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
                    assert driver.wait(timeout=120) not in (0, 2)  # a cluster that is gone is no success
                else:
                    kill(driver.pid, stage)
        finally:
            driver.kill()
            driver.wait()
    assert seen["GuardedDecoder"] == lives
    assert len(seen) == 1 + 2 * lives
    assert committed(bucket) < recordings
    last = start(words, log)
    try:
        assert last.wait(timeout=300) == 0, log.read_text()[-3000:]
    finally:
        last.kill()
    check_exact(bucket, recordings)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.timeout(600)
def test_two_drivers_and_a_writer_that_sleeps_through_the_resume_leave_an_exact_result(
    bucket: str, tmp_path: Path, small_model_dir: Path
) -> None:
    """The first driver is stopped with all its processes (SIGSTOP) after some commits; a second one does the rest; the
    first wakes up and goes on with what it held."""
    recordings = 45
    source = upload(bucket, tmp_path / "in", recordings)
    words = words_for(source, bucket, small_model_dir)
    first = start(words, tmp_path / "first")
    sleeping: list[psutil.Process] = []
    second = None
    try:
        deadline = time.monotonic() + 150
        while committed(bucket) < 5:
            assert first.poll() is None, (tmp_path / "first").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        sleeping = [psutil.Process(first.pid), *descendants(first.pid)]
        for process in sleeping:
            process.suspend()
        held = committed(bucket)
        assert held < recordings
        second = start(words, tmp_path / "second")
        time.sleep(8)
        for process in sleeping:  # while the second is at work
            process.resume()
        assert second.wait(timeout=240) == 0, (tmp_path / "second").read_text()[-3000:]
        assert first.wait(timeout=240) in (0, 1, 2, -signal.SIGKILL), (tmp_path / "first").read_text()[-3000:]
    finally:
        for process in sleeping:
            if process.is_running():
                process.kill()
        for driver in (first, second):
            if driver is not None:
                driver.kill()
                driver.wait()
    check_exact(bucket, recordings)
