"""Tests of plan, commit and publish together on a real Ceph gateway, with processes and the gateway killed."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import PlanConfig
from pipeline.output.accounting import close_books
from pipeline.output.commit import collect_garbage, committed_units, read_commits
from pipeline.output.publish import publish_tables
from pipeline.output.retry import plan_retry
from pipeline.schemas import TRANSCRIPT
from pipeline.storage.base import Storage, open_storage
from tests.support.ceph import Ceph
from tests.support.outputs import commit, killable, left, plan, ref, run

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def storage(bucket: str) -> Storage:
    return open_storage(bucket)


def _recordings(storage: Storage) -> list[str]:
    """The ids in the transcripts: all parts in order, read directly from the bucket."""
    parts = []
    for key in storage.list("transcripts/"):
        with storage.open(key) as stream:
            parts.append(pq.read_table(stream))
        assert parts[-1].schema.equals(TRANSCRIPT)
    return list(pa.concat_tables(parts)["recording_id"].to_pylist())


def _work(uri: str, fingerprint: str, seed: int, both: Barrier, done: Connection) -> None:
    storage = open_storage(uri)
    both.wait()  # otherwise one commits everything before the other starts
    # Several drivers commit the same units in different orders. Each commits a few, so that six kills leave some.
    for unit in random.Random(seed).sample(left(storage), 12):
        commit(storage, unit, fingerprint)
        done.send_bytes(unit.unit_id.encode())
    signal.pause()


def test_two_drivers_killed_again_and_again_with_the_gateway_leave_an_exact_result(
    ceph: Ceph, storage: Storage
) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(600)], part_rows=300)
    dice = random.Random(11)
    for kill in range(6):
        both = get_context("forkserver").Barrier(2)
        with (
            killable(_work, storage.uri, fingerprint, 2 * kill, both) as (one, done),
            killable(_work, storage.uri, fingerprint, 2 * kill + 1, both) as (two, _),
        ):
            for _ in range(dice.randint(2, 8)):
                done.recv_bytes()
            if kill % 3 == 2:
                ceph.kill_gateway()
                time.sleep(1)
                ceph.start_gateway()
                done.recv_bytes()  # the driver goes on
            time.sleep(dice.uniform(0, 0.05))
            for process in (one, two):
                process.kill()
                process.join()
                assert process.exitcode == -signal.SIGKILL
    assert 12 < len(committed_units(storage)) < 200
    run(storage, fingerprint)
    assert len(list(read_commits(storage))) == 200
    summary = publish_tables(storage)
    assert summary["closed"]
    assert summary["complete"]
    assert _recordings(storage) == [f"r{number}" for number in range(600) for _ in range(2)]
    assert len(list(storage.list("transcripts/"))) == 2
    assert len(list(storage.list("data/"))) == 200
    assert collect_garbage(storage) == 0


def _publish(uri: str, started: Connection) -> None:
    storage = open_storage(uri)
    while True:
        started.send_bytes(b"publishing")
        publish_tables(storage)


def test_publishing_killed_at_any_moment_leaves_every_recording_at_most_once(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(90)])
    dice = random.Random(5)
    run(storage, fingerprint, only=lambda number: number < 10)
    publish_tables(storage)
    before = set(_recordings(storage))
    for _ in range(8):
        run(storage, fingerprint, only=lambda number: number < 2)
        with killable(_publish, storage.uri) as (process, started):
            for _ in range(dice.randint(1, 2)):
                started.recv_bytes()
            time.sleep(dice.uniform(0, 0.2))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        seen = Counter(_recordings(storage))
        assert set(seen.values()) == {2}
        assert before <= set(seen)
        before = set(seen)
    run(storage, fingerprint)
    publish_tables(storage)
    assert _recordings(storage) == [f"r{number}" for number in range(90) for _ in range(2)]


def test_retries_and_the_books_work_in_a_bucket(storage: Storage) -> None:
    fingerprint = plan(storage, [*(ref(number) for number in range(30)), ref(3)])
    run(storage, fingerprint, dead=["r4", "r9", "r20"])
    assert publish_tables(storage)["dead_letters"] == {"duplicate_id": 1, "model_error": 3}
    assert plan_retry(storage, PlanConfig(unit_recordings=2)) == "round-1"
    run(storage, fingerprint, dead=["r9"])
    assert publish_tables(storage)["dead_letters"] == {"duplicate_id": 1, "model_error": 1}
    assert close_books(storage)["closed"]
    assert _recordings(storage) == [f"r{number}" for number in range(30) if number != 9 for _ in range(2)]
