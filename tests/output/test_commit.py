"""Tests of the commit: one winner for each unit, results must add up, damage is named, lost data is deleted."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from pipeline.output.commit import (
    collect_garbage,
    commit_key,
    commit_unit,
    committed_units,
    dead_samples,
    new_attempt,
    read_commit,
    read_commits,
    read_unit,
)
from pipeline.planning.pack import pack_units
from pipeline.schemas import WorkUnit
from pipeline.storage.base import OutputError, Storage, open_storage
from pipeline.storage.local import LocalStorage
from tests.support.outputs import UNITS, commit, killable, left, plan, ref, results, run


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


@pytest.fixture
def unit() -> WorkUnit:
    return next(pack_units([ref(1), ref(2), ref(3, problem="empty_file")], UNITS))


def test_a_commit_describes_its_results(storage: Storage, unit: WorkUnit) -> None:
    receipt = commit(storage, unit, "mark", dead=["r2"])
    assert receipt.won
    assert (receipt.recordings, receipt.transcribed, receipt.rows) == (3, 1, 2)
    assert receipt.dead == {"empty_file": 1, "model_error": 1}
    assert receipt.samples == {"in": 128_000, "transcribed": 48_000, "silence": 16_000, "lost": 0, "dead": 64_000}
    stored = json.loads(storage.get(f"commits/{unit.unit_id[:2]}/{unit.unit_id}.json"))
    assert stored["fingerprint"] == "mark"
    assert {"time", "host", "attempt"} <= set(stored)
    for entry, rows in ((stored["data"]["transcripts"], 2), (stored["data"]["dead_letters"], 2)):
        body = storage.get(entry["key"])
        assert entry["key"].startswith(f"data/{unit.unit_id}-{stored['attempt']}")
        assert (entry["rows"], entry["bytes"]) == (rows, len(body))
        assert entry["sha256"] == hashlib.sha256(body).hexdigest()


def test_what_was_committed_reads_back(storage: Storage, unit: WorkUnit) -> None:
    transcripts, letters, samples = results(unit, "mark")
    commit_unit(storage, unit, new_attempt(), transcripts, letters, samples, "mark")
    tables = read_unit(storage, read_commit(storage, unit.unit_id))
    assert tables["transcripts"].equals(transcripts)
    assert tables["dead_letters"].equals(letters)


def test_a_unit_without_dead_letters_has_one_data_file(storage: Storage) -> None:
    unit = next(pack_units([ref(1)], UNITS))
    commit(storage, unit, "mark")
    assert len(list(storage.list("data/"))) == 1
    assert read_unit(storage, read_commit(storage, unit.unit_id))["dead_letters"].num_rows == 0


def test_the_later_attempt_loses_deletes_its_data_and_gets_the_winners_figures(
    storage: Storage, unit: WorkUnit
) -> None:
    first = commit(storage, unit, "mark", text="first")
    winner_keys = list(storage.list("data/"))
    second = commit(storage, unit, "mark", text="second", segments=5)
    assert (first.won, second.won) == (True, False)
    assert second.rows == first.rows == 4
    assert list(storage.list("data/")) == winner_keys
    texts = read_unit(storage, read_commit(storage, unit.unit_id))["transcripts"]["text"].to_pylist()
    assert texts == ["first"] * 4


def test_a_loser_under_the_winners_name_leaves_the_winners_data(storage: Storage, unit: WorkUnit) -> None:
    transcripts, letters, samples = results(unit, "mark")
    won = [commit_unit(storage, unit, "same", transcripts, letters, samples, "mark").won for _ in range(2)]
    assert won == [True, False]
    assert read_unit(storage, read_commit(storage, unit.unit_id))["transcripts"].num_rows == 4


def test_racing_attempts_have_one_winner_and_no_garbage(storage: Storage) -> None:
    units = list(pack_units([ref(number) for number in range(60)], UNITS))
    wins: Counter[str] = Counter()
    barrier = threading.Barrier(4, timeout=60)

    def work() -> None:
        for unit in units:
            barrier.wait()
            if commit(storage, unit, "mark").won:
                wins[unit.unit_id] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wins == {unit.unit_id: 1 for unit in units}
    assert len(list(storage.list("data/"))) == 20
    assert committed_units(storage) == set(wins)


class Zombie(LocalStorage):
    """Stops between its data and its commit, as a suspended process does, until another attempt has committed."""

    def __init__(self, root: Path, awake: Any) -> None:
        super().__init__(root)
        self.awake = awake

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        self.awake()
        return super().put_if_absent(key, data)


def test_a_zombie_that_wakes_after_the_resume_changes_nothing(storage: Storage, unit: WorkUnit) -> None:
    assert isinstance(storage, LocalStorage)

    def resume() -> None:
        assert commit(storage, unit, "mark", text="resumed").won
        assert collect_garbage(storage) == 2  # the two data files of the zombie

    assert not commit(Zombie(storage.root, resume), unit, "mark", text="zombie").won
    texts = read_unit(storage, read_commit(storage, unit.unit_id))["transcripts"]["text"].to_pylist()
    assert texts == ["resumed"] * 4
    assert len(list(storage.list("data/"))) == 2


def test_only_data_that_can_never_be_committed_is_deleted(storage: Storage) -> None:
    done, undecided = pack_units([ref(number) for number in range(6)], UNITS)
    for unit in (done, undecided):
        storage.put(f"data/{unit.unit_id}-killed.arrow", b"half")
        storage.put(f"data/{unit.unit_id}-killed.dead.arrow", b"half")
        storage.put(f"data/{unit.unit_id}-slow.arrow", b"about to be committed")
    commit(storage, done, "mark")
    assert collect_garbage(storage) == 3
    left = [key for key in storage.list("data/") if done.unit_id in key]
    assert left == [read_commit(storage, done.unit_id)["data"]["transcripts"]["key"]]
    assert len([key for key in storage.list("data/") if undecided.unit_id in key]) == 3
    assert collect_garbage(storage) == 0


def _without(table: pa.Table, row: int) -> pa.Table:
    return pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def _with_column(table: pa.Table, name: str, value: object) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(name), pa.array([value] * len(table), table.schema.types[index]))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda t, d, s: (t.slice(0, 2), d, s), "missing for .'r2'"),
        (lambda t, d, s: (t, _without(d, 0), s), "missing for .'r3'"),
        (lambda t, d, s: (t, pa.concat_tables([d, d]), s), "not planned are .'r3'"),
        (lambda t, d, s: (_with_column(t, "recording_id", "r9"), d, s), "twice"),
        (lambda t, d, s: (pa.concat_tables([t, t]), d, s), "twice"),
        (lambda t, d, s: (_with_column(t, "text", None), d, s), "null text"),
        (lambda t, d, s: (_with_column(t, "unit_id", "other"), d, s), "another unit"),
        (lambda t, d, s: (_with_column(t, "fingerprint", "other"), d, s), "another fingerprint"),
        (lambda t, d, s: (t.drop(["steps"]), d, s), "another schema"),
        (lambda t, d, s: (t, _with_column(d, "reason", "tired"), s), "unknown reason"),
        (lambda t, d, s: (t, _with_column(d, "seconds", 1.0), s), "0 dead samples, but 16000 in"),
        (lambda t, d, s: (t, d, [s[0] | {"silence": s[0]["silence"] + 1}, *s[1:]]), "do not close"),
        (lambda t, d, s: (t, d, [s[0] | {"silence": -1, "in": 47_999}, *s[1:]]), "figures are"),
        (lambda t, d, s: (t, d, [s[0] | {"other": 0}, *s[1:]]), "figures are"),
        (lambda t, d, s: (t, d, [s[0] | {"in": 64_000.0}, *s[1:]]), "figures are"),
        (lambda t, d, s: (t, d, s[1:]), "figures of 2 recordings, not of 3"),
    ],
)
def test_results_that_do_not_add_up_are_never_committed(
    storage: Storage, unit: WorkUnit, damage: Any, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        commit_unit(storage, unit, new_attempt(), *damage(*results(unit, "mark")), "mark")
    assert list(storage.list("")) == []


def test_an_attempts_name_stays_inside_data(storage: Storage, unit: WorkUnit) -> None:
    with pytest.raises(ValueError, match="not the name of an attempt"):
        commit_unit(storage, unit, "../x", *results(unit, "mark"), "mark")


def test_damage_to_a_data_file_is_named_in_one_line(storage: Storage, unit: WorkUnit) -> None:
    commit(storage, unit, "mark")
    stored = read_commit(storage, unit.unit_id)
    key = stored["data"]["transcripts"]["key"]
    body = bytearray(storage.get(key))
    body[len(body) // 2] ^= 1
    for damaged in (bytes(body), bytes(body[:-1]), b"", None):
        storage.delete(key)
        if damaged is not None:
            storage.put(key, damaged)
        with pytest.raises(OutputError) as error:
            read_unit(storage, stored)
        assert f"{storage.uri}/{key}: " in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"unit_id": "0123456789abcdef"}'])
def test_a_damaged_commit_is_named_in_one_line(storage: Storage, unit: WorkUnit, content: bytes) -> None:
    storage.put(commit_key(unit.unit_id), content)
    with pytest.raises(OutputError, match=unit.unit_id):
        list(read_commits(storage))


def test_long_listings_are_split_by_prefix_and_stay_in_order(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.output.commit.SEQUENTIAL_KEYS", 10)
    monkeypatch.setattr(LocalStorage, "parallel", 8)
    units = list(pack_units([ref(number) for number in range(90)], UNITS))
    for unit in units:
        commit(storage, unit, "mark")
    wanted = sorted(unit.unit_id for unit in units)
    assert [stored["unit_id"] for stored in read_commits(storage)] == wanted
    assert committed_units(storage) == set(wanted)
    storage.put(f"data/{wanted[0]}-lost.arrow", b"")
    assert collect_garbage(storage) == 1


@pytest.mark.parametrize(
    ("seconds", "samples"), [(None, 0), (0.0, 0), (4.0, 64_000), (1 / 16_000, 1), (12_345 / 16_000, 12_345)]
)
def test_a_dead_letter_accounts_for_whole_samples(seconds: float | None, samples: int) -> None:
    assert dead_samples(seconds) == samples


def _work(uri: str, fingerprint: str, done: Connection) -> None:
    storage = open_storage(uri)
    for unit in left(storage)[:9]:  # a few, so that twenty processes leave some
        commit(storage, unit, fingerprint)
        done.send_bytes(unit.unit_id.encode())
    signal.pause()


def _dies_before_its_commit(uri: str, fingerprint: str, _: Connection) -> None:
    storage = open_storage(uri)
    with mock.patch.object(LocalStorage, "put_if_absent", side_effect=lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
        commit(storage, left(storage)[0], fingerprint)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_unit_is_committed_once_however_often_the_process_is_killed(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(600)])
    dice = random.Random(7)
    progress = []
    for _ in range(20):
        with killable(_work, storage.uri, fingerprint) as (process, done):
            for _ in range(dice.randint(1, 5)):
                done.recv_bytes()
            time.sleep(dice.uniform(0, 0.02))  # somewhere inside the next commits
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        progress.append(len(committed_units(storage)))
    assert progress == sorted(set(progress))  # every process committed something
    assert progress[-1] <= 180
    with killable(_dies_before_its_commit, storage.uri, fingerprint) as (process, _):
        process.join()
        assert process.exitcode == -signal.SIGKILL
    run(storage, fingerprint)
    commits = list(read_commits(storage))
    assert len(commits) == 200
    assert left(storage) == []
    recordings: Counter[str] = Counter()
    for stored in commits:
        recordings.update(set(read_unit(storage, stored)["transcripts"]["recording_id"].to_pylist()))
    assert recordings == {f"r{number}": 1 for number in range(600)}
    assert collect_garbage(storage) > 0  # some processes were killed between their data and their commit
    assert len(list(storage.list("data/"))) == 200
