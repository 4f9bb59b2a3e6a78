"""Tests of publishing: tables in the order of the plan, whole at any moment, checked against commits; the books."""

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
from pipeline.output import part_files
from pipeline.output.accounting import close_books
from pipeline.output.commit import read_commit
from pipeline.output.publish import is_published, publish_tables
from pipeline.output.retry import plan_retry
from pipeline.output.tables import published_rows
from pipeline.schemas import DEAD_LETTER, TRANSCRIPT
from pipeline.storage.base import OutputError, Storage, open_storage
from pipeline.storage.local import LocalStorage
from pipeline.storage.objects import ObjectReplacement
from tests.support.outputs import commit, killable, left, plan, ref, run


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def _table(storage: Storage, name: str) -> pa.Table:
    """A published table in the order of its parts."""
    parts = [pq.read_table(f"{storage.uri}/{key}") for key in storage.list(f"{name}/")]
    return pa.concat_tables(parts)


def _pairs(storage: Storage) -> list[tuple[str, int]]:
    table = _table(storage, "transcripts")
    return list(zip(table["recording_id"].to_pylist(), table["segment_index"].to_pylist(), strict=True))


def _expected(numbers: Any) -> list[tuple[str, int]]:
    return [(f"r{number}", segment) for number in numbers for segment in range(2)]


def test_tables_are_in_plan_order_whatever_the_order_of_the_commits(storage: Storage) -> None:
    refs = [ref(number) for number in (5, 3, 9, 0, 7, 1, 8, 2)]
    fingerprint = plan(storage, refs)
    for unit in reversed(left(storage)):
        commit(storage, unit, fingerprint, dead=["r7", "r9"])
    publish_tables(storage)
    assert _pairs(storage) == _expected([5, 3, 0, 1, 8, 2])
    assert _table(storage, "dead_letters")["recording_id"].to_pylist() == ["r9", "r7"]


def test_every_part_has_exactly_the_schema(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(60)])
    run(storage, fingerprint, dead=["r1"])
    publish_tables(storage)
    for name, schema in (("transcripts", TRANSCRIPT), ("dead_letters", DEAD_LETTER)):
        keys = list(storage.list(f"{name}/"))
        assert all(key.startswith(f"{name}/part-") and key.endswith(".parquet") for key in keys)
        for key in keys:
            assert pq.read_schema(f"{storage.uri}/{key}").equals(schema)
    assert len(list(storage.list("transcripts/"))) > 3


def test_duckdb_pandas_and_datasets_read_every_recording_once(storage: Storage) -> None:
    fingerprint = plan(storage, [*(ref(number) for number in range(40)), ref(3), ref("gone", problem="missing_file")])
    run(storage, fingerprint, dead=["r1", "r2"])
    publish_tables(storage)
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
    summary = publish_tables(storage)
    assert (summary["segments"], summary["closed"], summary["complete"]) == (0, False, False)
    for name, schema in (("transcripts", TRANSCRIPT), ("dead_letters", DEAD_LETTER)):
        assert _table(storage, name).schema.equals(schema)
        assert duckdb.sql(f"select count(*) from '{storage.uri}/{name}/*.parquet'").fetchall() == [(0,)]


def test_an_empty_plan_closes(storage: Storage) -> None:
    plan(storage, [])
    assert publish_tables(storage)["closed"]
    assert list(storage.list("transcripts/")) == ["transcripts/part-00000.parquet"]


def test_publishing_without_a_plan_is_an_error_in_one_line(storage: Storage) -> None:
    with pytest.raises(ConfigError, match="nothing is planned here yet"):
        publish_tables(storage)


def test_publishing_again_gives_the_same_bytes(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(30)])
    run(storage, fingerprint, dead=["r4"])
    publish_tables(storage)
    first = {key: storage.get(key) for name in ("transcripts/", "dead_letters/") for key in storage.list(name)}
    publish_tables(storage)
    second = {key: storage.get(key) for name in ("transcripts/", "dead_letters/") for key in storage.list(name)}
    assert first == second


def test_a_part_holds_the_same_recordings_in_every_publication(storage: Storage) -> None:
    """In an object store parts are replaced one by one: no mixture of two publications has a recording twice."""
    fingerprint = plan(storage, [ref(number) for number in range(60)])
    by_part: dict[str, set[str]] = {}
    dice = random.Random(3)
    while left(storage):
        run(storage, fingerprint, only=lambda _: dice.random() < 0.4)
        publish_tables(storage)
        for key in storage.list("transcripts/"):
            now = set(pq.read_table(f"{storage.uri}/{key}")["recording_id"].to_pylist())
            assert by_part.setdefault(key, set()) <= now
            by_part[key] = now
    assert Counter(item for part in by_part.values() for item in part) == {f"r{number}": 1 for number in range(60)}


def test_large_parts_are_written_in_several_row_groups(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_files, "ROW_GROUP", 10)
    fingerprint = plan(storage, [ref(number) for number in range(30)], part_rows=1000)
    run(storage, fingerprint)
    publish_tables(storage)
    assert list(storage.list("transcripts/")) == ["transcripts/part-00000.parquet"]
    assert pq.ParquetFile(f"{storage.uri}/transcripts/part-00000.parquet").num_row_groups == 5
    assert _pairs(storage) == _expected(range(30))


def test_the_books_and_the_summary_are_written(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, dead=["r1"])
    summary = publish_tables(storage, notes={"pipeline_rtfx": 12.5})
    assert json.loads(storage.get("_run/summary.json")) == summary
    assert json.loads(storage.get("_run/accounting.json")) == close_books(storage)
    assert summary["closed"]
    assert (summary["recordings"], summary["segments"], summary["dead_letters"]) == (9, 16, {"model_error": 1})
    assert summary["pipeline_rtfx"] == 12.5
    assert summary["audio_hours"] == 0.01


def test_a_retried_recording_moves_to_its_place_among_the_transcripts(storage: Storage) -> None:
    fingerprint = plan(storage, [*(ref(number) for number in range(12)), ref(4)])
    run(storage, fingerprint, dead=["r1", "r4", "r5", "r9"])
    publish_tables(storage)
    plan_retry(storage, PlanConfig(unit_recordings=2))
    publish_tables(storage)
    assert _table(storage, "dead_letters")["recording_id"].to_pylist() == ["r1", "r4", "r5", "r9", "r4"]
    run(storage, fingerprint, dead=["r5"])
    assert publish_tables(storage)["closed"]
    assert _pairs(storage) == _expected([*range(5), *range(6, 12)])
    letters = _table(storage, "dead_letters")
    assert letters["recording_id"].to_pylist() == ["r5", "r4"]
    assert letters["reason"].to_pylist() == ["model_error", "duplicate_id"]
    plan_retry(storage, PlanConfig(unit_recordings=2))
    run(storage, fingerprint)
    assert publish_tables(storage)["closed"]
    assert _pairs(storage) == _expected(range(12))
    assert _table(storage, "dead_letters")["reason"].to_pylist() == ["duplicate_id"]


@pytest.mark.parametrize("again", [(), ("r0",)])
def test_neighbours_of_which_one_fails_again_and_again_stand_once(storage: Storage, again: tuple[str, ...]) -> None:
    """Both are in one unit, and in the same unit of the first round. The second round has only the one that failed."""
    fingerprint = plan(storage, [ref(number) for number in range(3)])
    for dead in (("r0", "r1"), ("r0",), again):
        run(storage, fingerprint, dead=list(dead))
        assert publish_tables(storage)["closed"]
        plan_retry(storage, PlanConfig(unit_recordings=3))
    assert _pairs(storage) == _expected([1, 2] if again else range(3))
    assert _table(storage, "dead_letters")["recording_id"].to_pylist() == list(again)


def _corrupt(storage: Storage, key: str) -> None:
    body = bytearray(storage.get(key))
    body[len(body) // 2] ^= 1
    storage.put(key, bytes(body))


@pytest.mark.parametrize("remove", [True, False])
def test_a_damaged_data_file_is_named_and_the_old_tables_stay(storage: Storage, remove: bool) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, only=lambda number: number == 0)
    publish_tables(storage)
    run(storage, fingerprint)
    last = list(storage.list("data/"))[-1]
    if remove:
        storage.delete(last)
    else:
        _corrupt(storage, last)
    old = _pairs(storage)
    with pytest.raises(OutputError) as error:
        publish_tables(storage)
    assert last in str(error.value)
    assert "\n" not in str(error.value)
    assert _pairs(storage) == old
    unit_id = last.removeprefix("data/")[:16]
    storage.delete(f"commits/{unit_id[:2]}/{unit_id}.json")  # as the error message says
    run(storage, fingerprint)
    assert publish_tables(storage)["closed"]
    assert _pairs(storage) == _expected(range(9))


def test_a_published_part_that_is_damaged_in_any_place_is_named_in_one_line(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    run(storage, plan(storage, [ref(number) for number in range(3)]))
    publish_tables(storage)
    key = "transcripts/part-00000.parquet"
    body, said = storage.get(key), list[str]()
    for start in range(0, len(body), 97):
        storage.put(key, body[:start] + bytes(8) + body[start + 8 :])
        try:
            list(published_rows(storage, "transcripts", ["recording_id", "text", "words"]))
        except OutputError as err:
            said.append(str(err))
    assert len(said) > 10
    assert all(line.startswith(f"{storage.uri}/{key}: ") and "\n" not in line for line in said)


def _edit_commit(storage: Storage, change: dict[str, Any]) -> None:
    key = next(storage.list("commits/"))
    storage.put(key, json.dumps(json.loads(storage.get(key)) | change).encode())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"fingerprint": "0" * 16}, "was committed under fingerprint 0000000000000000"),
        ({"rows": 7}, "6 rows of transcripts, but 7 in the commits"),
        ({"transcribed": 2}, "3 recordings planned, 2 transcribed"),
        ({"samples": {"in": 9, "transcribed": 3, "silence": 3, "dead": 4}}, "samples do not close"),
    ],
)
def test_commits_that_contradict_the_data_are_refused(storage: Storage, change: dict[str, Any], complaint: str) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(3)])
    run(storage, fingerprint)
    publish_tables(storage)
    _edit_commit(storage, change)
    with pytest.raises(OutputError, match=complaint):
        publish_tables(storage)
    assert _pairs(storage) == _expected(range(3))


def test_a_unit_that_holds_other_recordings_than_planned_is_refused(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(6)])
    run(storage, fingerprint)
    one, two = storage.list("commits/")
    other = json.loads(storage.get(two))
    storage.put(one, json.dumps(json.loads(storage.get(one)) | {"data": other["data"]}).encode())
    with pytest.raises(OutputError, match="does not contain the recordings"):
        publish_tables(storage)


def test_publishing_deletes_the_data_of_lost_attempts(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(6)])
    run(storage, fingerprint)
    unit_id = next(storage.list("data/")).removeprefix("data/")[:16]
    storage.put(f"data/{unit_id}-lost.arrow", b"x")
    publish_tables(storage)
    assert [key for key in storage.list("data/") if "lost" in key] == []
    assert len(list(storage.list("data/"))) == 2
    assert read_commit(storage, unit_id)["rows"] == 6


class Stopped(LocalStorage):
    """Its process is suspended for a while, before its tables are replaced."""

    awake: Any = None

    def get(self, key: str) -> bytes:
        if self.awake and key == "_run/summary.json":
            awake, self.awake = self.awake, None
            awake()
        return super().get(key)


def test_a_publication_that_others_overtook_leaves_theirs(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(9)])
    run(storage, fingerprint, only=lambda number: number == 0)
    sleeper = Stopped(Path(storage.uri))

    def others() -> None:
        run(storage, fingerprint)
        publish_tables(storage)

    sleeper.awake = others
    summary = publish_tables(sleeper)
    assert summary["complete"]
    assert _pairs(storage) == _expected(range(9))
    assert json.loads(storage.get("_run/summary.json")) == summary


class Bucket(LocalStorage):
    """Replaces a table object by object. before: a key, and what is called once before an object of that key is put."""

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
        replacement = ObjectReplacement(self, prefix)  # type: ignore[arg-type]
        yield replacement
        for key in set(self.list(f"{prefix}/")) - set(replacement.versions):
            self.delete(key)


@pytest.fixture
def bucket(storage: Storage) -> Bucket:
    """A table of three parts, published when only its first unit was committed. Now all units are committed."""
    made = Bucket(Path(storage.uri))
    fingerprint = plan(made, [ref(number) for number in range(9)], part_rows=3)
    run(made, fingerprint, only=lambda number: number == 0)
    publish_tables(made)
    run(made, fingerprint)
    return made


LAST_PART = "transcripts/part-00002.parquet"


def test_an_older_publication_that_resumes_after_a_newer_one_publishes_again(bucket: Bucket) -> None:
    """It was suspended after it read the summary and before it put a part. Meanwhile the newer one has ended.

    Without what the last publication has noted, it writes all parts.
    """
    bucket.delete("_run/published.json")
    commits = {key: bucket.get(key) for key in bucket.list("commits/")}
    published = json.loads(bucket.get("_run/summary.json"))["units_committed"]
    for key in list(commits)[published:]:
        bucket.delete(key)

    def others() -> None:
        for key, content in commits.items():
            bucket.put(key, content)
        assert publish_tables(bucket)["complete"]

    bucket.before = LAST_PART, others
    assert publish_tables(bucket)["complete"]
    assert _pairs(bucket) == _expected(range(9))


def test_a_part_that_an_older_publication_writes_last_is_published_again(bucket: Bucket) -> None:
    """No summary shows this. Only the check of all parts does."""
    old = bucket.get(LAST_PART)
    bucket.before = "_run/summary.json", lambda: bucket.put(LAST_PART, old)
    assert publish_tables(bucket)["complete"]
    assert _pairs(bucket) == _expected(range(9))
    assert is_published(bucket, 3)


def test_an_older_publication_that_is_killed_while_it_overwrites_a_newer_one_is_detected(bucket: Bucket) -> None:
    old = bucket.get(LAST_PART)
    publish_tables(bucket)
    assert is_published(bucket, 3)
    bucket.put(LAST_PART, old)
    assert not is_published(bucket, 3)
    publish_tables(bucket)
    assert is_published(bucket, 3)
    assert _pairs(bucket) == _expected(range(9))


def test_two_publications_at_the_same_time_both_end(bucket: Bucket) -> None:
    """Every put makes another version here. So each sees parts of the other one, as long as they run in step."""
    with ThreadPoolExecutor(2) as pool:
        summaries = list(pool.map(publish_tables, (Bucket(Path(bucket.uri)) for _ in range(2))))
    assert [summary["complete"] for summary in summaries] == [True, True]
    assert is_published(bucket, 3)
    assert _pairs(bucket) == _expected(range(9))


def test_publishing_beside_a_driver_that_never_stops_publishing_is_an_error_in_one_line(bucket: Bucket) -> None:
    old = bucket.get(LAST_PART)

    def others() -> None:
        bucket.put(LAST_PART, old)
        bucket.before = "_run/published.json", others

    others()
    with pytest.raises(
        OutputError, match=r"other drivers keep publishing here; run publish=true after they have ended$"
    ):
        publish_tables(bucket)


def test_after_a_commit_was_deleted_the_tables_contain_the_rest(bucket: Bucket) -> None:
    publish_tables(bucket)
    bucket.delete(list(bucket.list("commits/"))[-1])
    summary = publish_tables(bucket)
    assert (summary["units_committed"], summary["complete"]) == (2, False)
    assert len(_pairs(bucket)) == 12


def _publish(uri: str, started: Connection) -> None:
    storage = open_storage(uri)
    while True:
        started.send_bytes(b"publishing")
        publish_tables(storage)


@pytest.mark.timeout(600)
def test_publishing_killed_at_any_moment_leaves_whole_tables(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(90)])
    dice = random.Random(5)
    run(storage, fingerprint, only=lambda number: number < 10)
    publish_tables(storage)
    published = 30
    for kill in range(10):
        run(storage, fingerprint, only=lambda number: number == 0)
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
    run(storage, fingerprint)
    publish_tables(storage)
    assert _pairs(storage) == _expected(range(90))


@pytest.mark.timeout(600)
def test_a_reader_during_publications_never_counts_a_recording_twice(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(60)])
    run(storage, fingerprint, only=lambda number: number < 5)
    publish_tables(storage)
    stop = threading.Event()

    def write() -> None:
        while left(storage):
            run(storage, fingerprint, only=lambda number: number == 0)
            publish_tables(storage)
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
