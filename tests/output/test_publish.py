"""Tests of publishing: the tables that others read, in plan order, whole at any moment, checked, with the books."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.config import ConfigError, PlanConfig
from pipeline.output import publish as publishing
from pipeline.output.accounting import close_books
from pipeline.output.commit import read_commit
from pipeline.output.publish import is_published, publish
from pipeline.output.retry import plan_retry
from pipeline.schemas import DEAD_LETTER, TRANSCRIPT
from pipeline.storage.base import OutputError, Storage, open_storage
from pipeline.storage.local import LocalStorage
from pipeline.storage.objects import ObjectReplacement
from tests.support.outputs import commit, killable, left, plan, ref, run


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def _table(storage: Storage, name: str) -> pa.Table:
    """A table in the order of its parts."""
    parts = [pq.read_table(f"{storage.uri}/{key}") for key in storage.list(f"{name}/")]
    return pa.concat_tables(parts)


def _pairs(storage: Storage) -> list[tuple[str, int]]:
    table = _table(storage, "transcripts")
    return list(zip(table["recording_id"].to_pylist(), table["segment_index"].to_pylist(), strict=True))


def _expected(numbers: Any) -> list[tuple[str, int]]:
    return [(f"r{number}", segment) for number in numbers for segment in range(2)]


def test_tables_are_in_plan_order_whatever_the_order_of_the_commits(storage: Storage) -> None:
    refs = [ref(number) for number in (5, 3, 9, 0, 7, 1, 8, 2)]
    mark = plan(storage, refs)
    for unit in reversed(left(storage)):
        commit(storage, unit, mark, dead=["r7", "r9"])
    publish(storage)
    assert _pairs(storage) == _expected([5, 3, 0, 1, 8, 2])
    assert _table(storage, "dead_letters")["recording_id"].to_pylist() == ["r9", "r7"]


def test_every_part_has_exactly_the_schema(storage: Storage) -> None:
    mark = plan(storage, [ref(number) for number in range(60)])
    run(storage, mark, dead=["r1"])
    publish(storage)
    for name, schema in (("transcripts", TRANSCRIPT), ("dead_letters", DEAD_LETTER)):
        keys = list(storage.list(f"{name}/"))
        assert all(key.startswith(f"{name}/part-") and key.endswith(".parquet") for key in keys)
        for key in keys:
            assert pq.read_schema(f"{storage.uri}/{key}").equals(schema)
    assert len(list(storage.list("transcripts/"))) > 3


def test_duckdb_pandas_and_datasets_read_every_recording_once(storage: Storage) -> None:
    mark = plan(storage, [*(ref(number) for number in range(40)), ref(3), ref("gone", problem="missing_file")])
    run(storage, mark, dead=["r1", "r2"])
    publish(storage)
    root = storage.uri
    query = f"""
        select recording_id, count(*), list(segment_index order by segment_index), max(words[1].text)
        from '{root}/transcripts/*.parquet' group by 1 order by 1"""
    rows = duckdb.sql(query).fetchall()
    assert [row[0] for row in rows] == sorted(f"r{number}" for number in range(40) if number not in (1, 2))
    assert {row[1:] for row in ((row[0], row[1], tuple(row[2]), row[3]) for row in rows)} == {(2, (0, 1), "hallo")}
    dead = duckdb.sql(f"select reason, count(*) from '{root}/dead_letters/*.parquet' group by 1 order by 1").fetchall()
    assert dead == [("duplicate_id", 1), ("missing_file", 1), ("model_error", 2)]
    frame = pd.read_parquet(f"{root}/transcripts")
    assert list(frame.columns) == TRANSCRIPT.names
    assert frame.groupby("recording_id").size().eq(2).all()
    assert frame["confidence"].dtype == "float32"
    assert ds.dataset(f"{root}/transcripts").schema.equals(TRANSCRIPT)


def test_publishing_nothing_gives_readable_empty_tables(storage: Storage) -> None:
    plan(storage, [ref(number) for number in range(5)])
    summary = publish(storage)
    assert (summary["segments"], summary["closed"], summary["complete"]) == (0, False, False)
    for name, schema in (("transcripts", TRANSCRIPT), ("dead_letters", DEAD_LETTER)):
        assert _table(storage, name).schema.equals(schema)
        assert duckdb.sql(f"select count(*) from '{storage.uri}/{name}/*.parquet'").fetchall() == [(0,)]


def test_an_empty_plan_closes(storage: Storage) -> None:
    plan(storage, [])
    assert publish(storage)["closed"]
    assert list(storage.list("transcripts/")) == ["transcripts/part-00000.parquet"]


def test_without_a_plan_there_is_one_line(storage: Storage) -> None:
    with pytest.raises(ConfigError, match="nothing is planned here yet"):
        publish(storage)


def test_publishing_again_gives_the_same_bytes(storage: Storage) -> None:
    mark = plan(storage, [ref(number) for number in range(30)])
    run(storage, mark, dead=["r4"])
    publish(storage)
    first = {key: storage.get(key) for name in ("transcripts/", "dead_letters/") for key in storage.list(name)}
    publish(storage)
    second = {key: storage.get(key) for name in ("transcripts/", "dead_letters/") for key in storage.list(name)}
    assert first == second


def test_a_part_holds_the_same_recordings_in_every_publication(storage: Storage) -> None:
    """On object stores parts are replaced one by one: no mixture of two publications may double a recording."""
    mark = plan(storage, [ref(number) for number in range(60)])
    of_part: dict[str, set[str]] = {}
    dice = random.Random(3)
    while left(storage):
        run(storage, mark, only=lambda _: dice.random() < 0.4)
        publish(storage)
        for key in storage.list("transcripts/"):
            now = set(pq.read_table(f"{storage.uri}/{key}")["recording_id"].to_pylist())
            assert of_part.setdefault(key, set()) <= now
            of_part[key] = now
    assert Counter(item for part in of_part.values() for item in part) == {f"r{number}": 1 for number in range(60)}


def test_large_parts_are_written_in_several_row_groups(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "ROW_GROUP", 10)
    mark = plan(storage, [ref(number) for number in range(30)], part_rows=1000)
    run(storage, mark)
    publish(storage)
    assert list(storage.list("transcripts/")) == ["transcripts/part-00000.parquet"]
    assert pq.ParquetFile(f"{storage.uri}/transcripts/part-00000.parquet").num_row_groups == 5
    assert _pairs(storage) == _expected(range(30))


def test_the_books_and_the_summary_are_written(storage: Storage) -> None:
    mark = plan(storage, [ref(number) for number in range(9)])
    run(storage, mark, dead=["r1"])
    done: list[int] = []
    summary = publish(storage, notes={"pipeline_rtfx": 12.5}, progress=done.append)
    assert done == [1, 2, 3]
    assert json.loads(storage.get("_run/summary.json")) == summary
    assert json.loads(storage.get("_run/accounting.json")) == close_books(storage)
    assert summary["closed"]
    assert (summary["recordings"], summary["segments"], summary["dead_letters"]) == (9, 16, {"model_error": 1})
    assert summary["pipeline_rtfx"] == 12.5
    assert summary["audio_hours"] == 0.01


def test_a_retried_recording_moves_to_its_place_among_the_transcripts(storage: Storage) -> None:
    mark = plan(storage, [*(ref(number) for number in range(12)), ref(4)])
    run(storage, mark, dead=["r1", "r4", "r5", "r9"])
    publish(storage)
    plan_retry(storage, PlanConfig(unit_recordings=2))
    publish(storage)
    assert _table(storage, "dead_letters")["recording_id"].to_pylist() == ["r1", "r4", "r5", "r9", "r4"]
    run(storage, mark, dead=["r5"])
    assert publish(storage)["closed"]
    assert _pairs(storage) == _expected([*range(5), *range(6, 12)])
    letters = _table(storage, "dead_letters")
    assert letters["recording_id"].to_pylist() == ["r5", "r4"]
    assert letters["reason"].to_pylist() == ["model_error", "duplicate_id"]
    plan_retry(storage, PlanConfig(unit_recordings=2))
    run(storage, mark)
    assert publish(storage)["closed"]
    assert _pairs(storage) == _expected(range(12))
    assert _table(storage, "dead_letters")["reason"].to_pylist() == ["duplicate_id"]


@pytest.mark.parametrize("again", [(), ("r0",)])
def test_neighbours_of_which_one_fails_again_and_again_stand_once(storage: Storage, again: tuple[str, ...]) -> None:
    """Both are in one unit, and in one of the first round; the second round has the one alone."""
    mark = plan(storage, [ref(number) for number in range(3)])
    for dead in (("r0", "r1"), ("r0",), again):
        run(storage, mark, dead=list(dead))
        assert publish(storage)["closed"]
        plan_retry(storage, PlanConfig(unit_recordings=3))
    assert _pairs(storage) == _expected([1, 2] if again else range(3))
    assert _table(storage, "dead_letters")["recording_id"].to_pylist() == list(again)


def _corrupt(storage: Storage, key: str) -> None:
    body = bytearray(storage.get(key))
    body[len(body) // 2] ^= 1
    storage.put(key, bytes(body))


@pytest.mark.parametrize("remove", [True, False])
def test_a_damaged_data_file_is_named_and_the_old_tables_stay(storage: Storage, remove: bool) -> None:
    mark = plan(storage, [ref(number) for number in range(9)])
    run(storage, mark, only=lambda number: number == 0)
    publish(storage)
    run(storage, mark)
    last = list(storage.list("data/"))[-1]
    if remove:
        storage.delete(last)
    else:
        _corrupt(storage, last)
    old = _pairs(storage)
    with pytest.raises(OutputError) as error:
        publish(storage)
    assert last in str(error.value)
    assert "\n" not in str(error.value)
    assert _pairs(storage) == old
    unit_id = last.removeprefix("data/")[:16]
    storage.delete(f"commits/{unit_id[:2]}/{unit_id}.json")  # what the message advises
    run(storage, mark)
    assert publish(storage)["closed"]
    assert _pairs(storage) == _expected(range(9))


def _edit_commit(storage: Storage, change: dict[str, Any]) -> None:
    key = next(storage.list("commits/"))
    storage.put(key, json.dumps(json.loads(storage.get(key)) | change).encode())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"fingerprint": "0" * 16}, "was committed under fingerprint 0000000000000000"),
        ({"rows": 7}, "6 rows of transcripts where the commits count 7"),
        ({"transcribed": 2}, "3 recordings planned, 2 transcribed"),
        ({"samples": {"in": 9, "transcribed": 3, "silence": 3, "dead": 4}}, "samples do not close"),
    ],
)
def test_commits_that_contradict_the_data_are_refused(storage: Storage, change: dict[str, Any], complaint: str) -> None:
    mark = plan(storage, [ref(number) for number in range(3)])
    run(storage, mark)
    publish(storage)
    _edit_commit(storage, change)
    with pytest.raises(OutputError, match=complaint):
        publish(storage)
    assert _pairs(storage) == _expected(range(3))


def test_a_unit_that_holds_other_recordings_than_planned_is_refused(storage: Storage) -> None:
    mark = plan(storage, [ref(number) for number in range(6)])
    run(storage, mark)
    one, two = storage.list("commits/")
    other = json.loads(storage.get(two))
    storage.put(one, json.dumps(json.loads(storage.get(one)) | {"data": other["data"]}).encode())
    with pytest.raises(OutputError, match="does not hold the recordings"):
        publish(storage)


def test_garbage_goes_when_publishing(storage: Storage) -> None:
    mark = plan(storage, [ref(number) for number in range(6)])
    run(storage, mark)
    unit_id = next(storage.list("data/")).removeprefix("data/")[:16]
    storage.put(f"data/{unit_id}-lost.parquet", b"x")
    publish(storage)
    assert [key for key in storage.list("data/") if "lost" in key] == []
    assert len(list(storage.list("data/"))) == 2
    assert read_commit(storage, unit_id)["rows"] == 6


class Stopped(LocalStorage):
    """Its process is stopped for a while before its transcripts are exchanged."""

    awake: Any = None

    def get(self, key: str) -> bytes:
        if self.awake and key == "_run/summary.json":
            awake, self.awake = self.awake, None
            awake()
        return super().get(key)


def test_a_publication_that_others_overtook_leaves_theirs(storage: Storage) -> None:
    mark = plan(storage, [ref(number) for number in range(9)])
    run(storage, mark, only=lambda number: number == 0)
    sleeper = Stopped(Path(storage.uri))

    def others() -> None:
        run(storage, mark)
        publish(storage)

    sleeper.awake = others
    summary = publish(sleeper)
    assert summary["complete"]
    assert _pairs(storage) == _expected(range(9))
    assert json.loads(storage.get("_run/summary.json")) == summary


class Bucket(LocalStorage):
    """Replaces a table object by object; `before` is called before an object of that key is put, once."""

    before: tuple[str, Callable[[], None]] | None = None

    def put(self, key: str, data: bytes | Path) -> None:
        if self.before and key == self.before[0]:
            call, self.before = self.before[1], None
            call()
        super().put(key, data)

    def put_version(self, key: str, data: bytes | Path) -> str:
        self.put(key, data)
        return self.versions(key)[key]

    @contextlib.contextmanager
    def replace(self, prefix: str) -> Iterator[Any]:
        with self.scratch() as directory:
            yield ObjectReplacement(self, prefix, directory)  # type: ignore[arg-type]


@pytest.fixture
def bucket(storage: Storage) -> Bucket:
    """A table of three parts, published when its first unit was committed; all units are committed since."""
    made = Bucket(Path(storage.uri))
    mark = plan(made, [ref(number) for number in range(9)], part_rows=3)
    run(made, mark, only=lambda number: number == 0)
    publish(made)
    run(made, mark)
    return made


LAST_PART = "transcripts/part-00002.parquet"


def test_an_older_publication_that_wakes_up_over_a_newer_one_publishes_again(bucket: Bucket) -> None:
    """It was stopped between its look at the summary and its put, and the newer one has ended by then."""
    commits = {key: bucket.get(key) for key in bucket.list("commits/")}
    kept = json.loads(bucket.get("_run/summary.json"))["units_committed"]
    for key in list(commits)[kept:]:
        bucket.delete(key)

    def others() -> None:
        for key, content in commits.items():
            bucket.put(key, content)
        assert publish(bucket)["complete"]

    bucket.before = LAST_PART, others
    assert publish(bucket)["complete"]
    assert _pairs(bucket) == _expected(range(9))


def test_a_part_that_an_older_publication_writes_last_is_published_again(bucket: Bucket) -> None:
    """Nobody's summary tells of it: only the look at all parts does."""
    old = bucket.get(LAST_PART)
    bucket.before = "_run/summary.json", lambda: bucket.put(LAST_PART, old)
    assert publish(bucket)["complete"]
    assert _pairs(bucket) == _expected(range(9))
    assert is_published(bucket, 3)


def test_an_older_publication_that_is_killed_over_a_newer_one_is_found_out(bucket: Bucket) -> None:
    old = bucket.get(LAST_PART)
    publish(bucket)
    assert is_published(bucket, 3)
    bucket.put(LAST_PART, old)
    assert not is_published(bucket, 3)
    publish(bucket)
    assert is_published(bucket, 3)
    assert _pairs(bucket) == _expected(range(9))


def test_two_publications_of_the_same_at_once_both_end(bucket: Bucket) -> None:
    """Here every put is another version: each finds the other's parts as long as they keep step."""
    with ThreadPoolExecutor(2) as pool:
        summaries = list(pool.map(publish, (Bucket(Path(bucket.uri)) for _ in range(2))))
    assert [summary["complete"] for summary in summaries] == [True, True]
    assert is_published(bucket, 3)
    assert _pairs(bucket) == _expected(range(9))


def test_publishing_beside_somebody_who_never_ends_is_told_in_one_line(bucket: Bucket) -> None:
    old = bucket.get(LAST_PART)

    def others() -> None:
        bucket.put(LAST_PART, old)
        bucket.before = "_run/published.json", others

    others()
    with pytest.raises(OutputError, match=r"others publish here all the time; publish=true when they have ended$"):
        publish(bucket)


def test_after_a_commit_was_deleted_the_tables_show_what_is_left(bucket: Bucket) -> None:
    publish(bucket)
    bucket.delete(list(bucket.list("commits/"))[-1])
    summary = publish(bucket)
    assert (summary["units_committed"], summary["complete"]) == (2, False)
    assert len(_pairs(bucket)) == 12


def _publish(uri: str, started: Connection) -> None:
    storage = open_storage(uri)
    while True:
        started.send_bytes(b"publishing")
        publish(storage)


@pytest.mark.timeout(600)
def test_publishing_killed_at_any_moment_leaves_whole_tables(storage: Storage) -> None:
    mark = plan(storage, [ref(number) for number in range(90)])
    dice = random.Random(5)
    run(storage, mark, only=lambda number: number < 10)
    publish(storage)
    published = 30
    for kill in range(10):
        run(storage, mark, only=lambda number: number == 0)
        with killable(_publish, storage.uri) as (process, started):
            for _ in range(dice.randint(1, 2)):
                started.recv_bytes()
            time.sleep(dice.uniform(0, 0.1))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        pairs = _pairs(storage)
        assert len(pairs) == len(set(pairs))
        assert len(pairs) % 6 == 0  # whole units
        assert published * 2 <= len(pairs) <= (30 + 3 * (kill + 1)) * 2
        published = len(pairs) // 2
    assert published > 30
    run(storage, mark)
    publish(storage)
    assert _pairs(storage) == _expected(range(90))


@pytest.mark.timeout(300)
def test_a_reader_during_publications_never_counts_a_recording_twice(storage: Storage) -> None:
    mark = plan(storage, [ref(number) for number in range(60)])
    run(storage, mark, only=lambda number: number < 5)
    publish(storage)
    stop = threading.Event()

    def write() -> None:
        while left(storage):
            run(storage, mark, only=lambda number: number == 0)
            publish(storage)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    connection = duckdb.connect()
    query = f"select recording_id, count(*) from '{storage.uri}/transcripts/*.parquet' group by 1"
    before: set[str] = set()
    while not stop.is_set():
        seen = dict(connection.sql(query).fetchall())
        assert set(seen.values()) == {2}
        assert before <= set(seen)
        before = set(seen)
    writer.join()
    assert len(connection.sql(query).fetchall()) == 60
