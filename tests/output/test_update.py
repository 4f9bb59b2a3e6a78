"""Tests of growing sources: what is new, changed or gone is counted, planned as a round, and stands once."""

from __future__ import annotations

import os
import random
import signal
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ConfigError, PlanConfig, SourceConfig
from pipeline.output.accounting import close_books
from pipeline.output.commit import committed_units, read_commit
from pipeline.output.publish import publish_tables
from pipeline.output.retry import plan_retry
from pipeline.output.tables import published_rows
from pipeline.planning.plan import ensure_plan, plan_names, read_plan, read_round
from pipeline.planning.update import Changes, last_changes, note_changes, source_changes
from pipeline.sources.access import remote
from pipeline.sources.access.streams import open_archive
from pipeline.storage.base import Storage, open_storage
from tests.support.outputs import FINGERPRINT, commit, killable, left, run

PAIRS = PlanConfig(unit_recordings=2)


class Archive:
    """A source, its output, and drivers that plan, update and commit without a model."""

    def __init__(self, folder: Path, uri: str = "in", **settings: Any) -> None:
        self.folder = folder / "in"
        self.folder.mkdir(exist_ok=True)
        self.source = SourceConfig(uri=str(folder / uri), **settings)
        self.storage = open_storage(str(folder / "out"))
        self.time = 1_000_000_000

    def write(self, *names: str, content: bytes = b"RIFF") -> None:
        for name in names:
            self.put(name, content)

    def put(self, name: str, content: bytes) -> None:
        """Write a file; its time of the last change is another one each time."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.time += 1
        os.utime(path, (self.time, self.time))

    def delete(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink()

    def plan(self) -> str:
        return ensure_plan(self.storage, self.source, PAIRS, part_rows=4, fingerprint=FINGERPRINT)

    def changes(self, *, update: bool = False, storage: Storage | None = None) -> Changes | None:
        storage = storage or self.storage
        config = PlanConfig(unit_recordings=2, update=update)

        def is_recognised(place: tuple[str, int]) -> bool:
            return read_commit(storage, place[0])["by_recording"]["reason"][place[1]] is None

        return source_changes(
            storage,
            self.source,
            config,
            part_rows=4,
            at_least=0,
            committed=committed_units(storage),
            is_recognised=is_recognised,
        )

    def done(self, **options: Any) -> None:
        """Commit everything that is left, and publish."""
        run(self.storage, self.plan(), **options)
        publish_tables(self.storage)

    def texts(self) -> dict[str, str]:
        """The published text of each recording. Each of its segments stands once, and the books close."""
        rows = list(published_rows(self.storage, "transcripts", ["recording_id", "segment_index", "text"]))
        assert max(Counter((row["recording_id"], row["segment_index"]) for row in rows).values(), default=1) == 1
        books = close_books(self.storage)
        assert books["complaints"] == []
        assert books["segments"] == len(rows)
        return {row["recording_id"]: row["text"] for row in rows}

    def letters(self) -> list[str]:
        return sorted(row["recording_id"] for row in published_rows(self.storage, "dead_letters", ["recording_id"]))

    def ids_left(self) -> list[str]:
        return [ref.recording_id for unit in left(self.storage) for ref in unit.refs]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive(tmp_path)
    made.write(*(f"{name}.wav" for name in "abcde"))
    return made


def tar_of(names: Iterable[str]) -> bytes:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, BytesIO(b"RIFF"))
    return stream.getvalue()


def test_a_source_that_stays_the_same_has_no_changes(archive: Archive) -> None:
    archive.plan()
    assert archive.changes() == Changes()
    archive.done()
    assert archive.changes(update=True) == Changes()
    assert plan_names(archive.storage) == ["plan"]


def test_new_changed_and_gone_recordings_are_counted_and_nothing_is_planned(archive: Archive) -> None:
    archive.plan()
    archive.write("b.wav", "f.wav", "g/h.wav", "z.wav", content=b"RIFFx")
    archive.delete("c.wav", "d.wav")
    found = archive.changes()
    assert found == Changes(new=3, changed=1, gone=2)
    assert str(found) == "3 new, 1 changed, 2 gone: plan.update=true takes them up"
    assert plan_names(archive.storage) == ["plan"]


def test_an_update_adds_new_ones_replaces_changed_ones_and_keeps_gone_ones(archive: Archive) -> None:
    archive.plan()
    archive.done(text="old")
    before = list(archive.storage.list("transcripts/"))
    archive.write("b.wav", "f.wav")
    archive.delete("c.wav")
    assert archive.changes(update=True) == Changes(new=1, changed=1, gone=1, taken_up=True)
    assert archive.ids_left() == ["b.wav", "f.wav"]
    archive.done(text="new")
    assert archive.texts() == dict.fromkeys(("a.wav", "c.wav", "d.wav", "e.wav"), "old") | {
        "b.wav": "new",
        "f.wav": "new",
    }
    order = [row["recording_id"] for row in published_rows(archive.storage, "transcripts", ["recording_id"])]
    assert list(dict.fromkeys(order)) == [f"{name}.wav" for name in "abcdef"]  # changed ones stay at their place
    assert list(archive.storage.list("transcripts/"))[: len(before)] == before  # new ones are in further parts
    assert close_books(archive.storage)["recordings_planned"] == 6
    assert archive.changes(update=True) == Changes()


def test_what_is_gone_before_it_was_committed_is_neither_tried_nor_counted(archive: Archive) -> None:
    fingerprint = archive.plan()
    commit(archive.storage, left(archive.storage)[0], fingerprint, text="old")  # a and b
    archive.delete("a.wav", "c.wav")
    assert archive.changes(update=True) == Changes(gone=2, taken_up=True)
    assert archive.ids_left() == ["e.wav", "d.wav"]  # d was in one unit with c
    archive.done(text="new")
    assert archive.texts() == {"a.wav": "old", "b.wav": "old", "d.wav": "new", "e.wav": "new"}
    books = close_books(archive.storage)
    assert (books["closed"], books["complete"], books["recordings_planned"]) == (True, True, 4)
    assert archive.changes() == Changes()


def test_what_was_gone_is_new_when_it_comes_back(archive: Archive) -> None:
    archive.plan()
    archive.delete("c.wav")
    archive.changes(update=True)
    archive.done()
    archive.write("c.wav")
    assert archive.changes(update=True) == Changes(new=1, taken_up=True)
    archive.done()
    assert list(archive.texts()) == [f"{name}.wav" for name in "abcde"]
    assert close_books(archive.storage)["recordings_planned"] == 5


def test_the_dead_letter_of_a_recording_that_is_gone_is_dropped_until_it_comes_back(archive: Archive) -> None:
    archive.plan()
    archive.done(dead=["c.wav"], text="old")
    archive.delete("c.wav")
    assert archive.changes(update=True) == Changes(gone=1, taken_up=True)
    archive.done()
    assert (archive.letters(), close_books(archive.storage)["recordings_planned"]) == ([], 4)
    assert plan_retry(archive.storage, PAIRS) is None
    archive.write("c.wav")
    assert archive.changes(update=True) == Changes(changed=1, taken_up=True)
    archive.done(text="new")
    assert archive.texts()["c.wav"] == "new"
    assert close_books(archive.storage)["recordings_planned"] == 5


def test_a_changed_recording_that_fails_now_is_a_dead_letter_and_can_be_retried(archive: Archive) -> None:
    archive.plan()
    archive.done(text="old")
    archive.write("b.wav")
    archive.changes(update=True)
    archive.done(dead=["b.wav"])
    assert (archive.letters(), "b.wav" in archive.texts()) == (["b.wav"], False)
    plan_retry(archive.storage, PAIRS)
    archive.done(text="again")
    assert (archive.letters(), archive.texts()["b.wav"]) == ([], "again")
    assert plan_names(archive.storage) == ["plan", "round-1", "round-2"]
    assert archive.changes() == Changes()


def test_an_update_and_a_retry_in_one_run_take_up_both(archive: Archive) -> None:
    archive.plan()
    archive.done(dead=["a.wav", "b.wav"], text="old")
    archive.write("b.wav", "f.wav")
    archive.changes(update=True)
    assert plan_retry(archive.storage, PAIRS) == "round-2"
    assert sorted(archive.ids_left()) == ["a.wav", "b.wav", "f.wav"]  # b is not tried twice
    archive.done(text="new")
    assert archive.texts() == {f"{name}.wav": "new" if name in "abf" else "old" for name in "abcdef"}


def test_two_updates_in_a_row_before_anything_is_done(archive: Archive) -> None:
    archive.plan()
    archive.write("b.wav", "f.wav")
    archive.changes(update=True)
    archive.write("b.wav", "f.wav", "g.wav")
    archive.delete("d.wav")
    assert archive.changes(update=True) == Changes(new=1, changed=2, gone=1, taken_up=True)
    assert sorted(archive.ids_left()) == [f"{name}.wav" for name in "abcefg"]
    archive.done(text="new")
    assert archive.texts() == {f"{name}.wav": "new" for name in "abcefg"}
    books = close_books(archive.storage)
    assert (books["closed"], books["complete"], books["recordings_planned"]) == (True, True, 6)


def test_a_driver_that_commits_a_withdrawn_unit_late_changes_nothing_else(archive: Archive) -> None:
    """It had begun the unit before the update. Its result of the gone recording counts, that of the others not."""
    fingerprint = archive.plan()
    begun = left(archive.storage)
    archive.delete("c.wav")
    archive.write("a.wav")
    archive.changes(update=True)
    archive.done(text="new")
    for unit in begun:
        commit(archive.storage, unit, fingerprint, text="late")
    publish_tables(archive.storage)
    assert archive.texts() == dict.fromkeys(["a.wav", "b.wav", "d.wav"], "new") | {"c.wav": "late", "e.wav": "new"}
    books = close_books(archive.storage)
    assert (books["closed"], books["complete"], books["recordings_planned"]) == (True, True, 5)


def test_of_two_drivers_that_update_at_the_same_time_one_plans_the_round(archive: Archive) -> None:
    archive.plan()
    archive.done(text="old")
    archive.write("b.wav", "f.wav", "g.wav")
    barrier = threading.Barrier(2, timeout=100)
    found: list[Changes | None] = []

    def drive() -> None:
        storage = open_storage(archive.storage.uri)
        barrier.wait()
        found.append(archive.changes(update=True, storage=storage))

    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bool(changes) for changes in found) in ([False, True],)
    assert plan_names(archive.storage) == ["plan", "round-1"]
    assert sorted(archive.ids_left()) == ["b.wav", "f.wav", "g.wav"]


def test_an_update_and_a_retry_of_two_drivers_do_not_take_up_a_recording_twice(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.plan()
    archive.done(dead=["b.wav", "c.wav"], text="old")
    archive.write("b.wav")
    names = plan_names(archive.storage)
    archive.changes(update=True)
    seen = iter([names])  # the driver of the retry listed the plans before the update was planned
    monkeypatch.setattr("pipeline.output.retry.plan_names", lambda storage: next(seen, None) or plan_names(storage))
    assert plan_retry(archive.storage, PAIRS) == "round-2"
    assert archive.ids_left() == ["b.wav", "c.wav"]


def test_an_archive_that_has_not_changed_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path)
    archive.put("1.tar", tar_of(["a.wav", "b.wav"]))
    archive.put("2.tar", tar_of(["c.wav", "d.wav"]))
    archive.put("3.tar", tar_of(["e.wav"]))
    archive.plan()
    archive.done(text="old")
    archive.put("2.tar", tar_of(["c.wav"]))
    archive.put("4.tar", tar_of(["f.wav"]))
    archive.delete("3.tar")
    opened: list[str] = []
    monkeypatch.setattr(
        "pipeline.sources.webdataset.open_archive",
        lambda uri, *rest: opened.append(uri.rpartition("/")[2]) or open_archive(uri, *rest),
    )
    assert archive.changes(update=True) == Changes(new=1, changed=1, gone=2, taken_up=True)
    assert opened == ["2.tar", "4.tar"]
    archive.done(text="new")
    assert archive.texts() == dict.fromkeys(("1/a", "1/b", "2/d", "3/e"), "old") | {"2/c": "new", "4/f": "new"}
    opened.clear()
    assert archive.changes() == Changes()
    assert opened == []


def test_a_table_that_has_not_changed_is_not_opened_and_its_ids_stay_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path)

    def table(name: str, ids: list[str]) -> None:
        stream = BytesIO()
        pq.write_table(pa.table({"id": ids, "audio": [b"RIFF"] * len(ids)}), stream)
        archive.put(name, stream.getvalue())

    table("1.parquet", ["x", "y"])
    archive.plan()
    archive.done()
    table("2.parquet", ["y", "z"])
    opened: list[str] = []
    original = remote.open_stream
    monkeypatch.setattr(remote, "open_stream", lambda uri, *rest: opened.append(uri) or original(uri, *rest))
    assert archive.changes(update=True) == Changes(new=2, taken_up=True)
    assert [uri.rpartition("/")[2] for uri in opened] == ["2.parquet"]
    archive.done()
    assert list(archive.texts()) == ["x", "y", "2/0", "z"]


def test_a_new_manifest_line_for_an_id_that_is_planned_is_a_duplicate(tmp_path: Path) -> None:
    archive = Archive(tmp_path, uri="in/m.jsonl")
    archive.write("a.wav", "b.wav")
    lines = ['{"id": "a", "audio_filepath": "a.wav"}', '{"id": "b", "audio_filepath": "b.wav"}']
    archive.put("m.jsonl", "\n".join(lines).encode())
    archive.plan()
    archive.done()
    archive.put("m.jsonl", "\n".join([*lines, '{"id": "a", "audio_filepath": "b.wav"}']).encode())
    assert archive.changes(update=True) == Changes(new=1, taken_up=True)
    archive.done()
    assert (list(archive.texts()), archive.letters()) == (["a", "b"], ["a"])
    assert archive.changes(update=True) == Changes()


def test_a_signature_in_an_address_is_no_change(tmp_path: Path) -> None:
    archive = Archive(tmp_path, uri="in/m.jsonl")
    line = '{"id": "a", "audio_filepath": "https://host/a.wav?X-Amz-Signature=%s"}'
    archive.put("m.jsonl", (line % "monday").encode())
    archive.plan()
    archive.put("m.jsonl", (line % "tuesday").encode())
    assert archive.changes() == Changes()


def test_a_source_that_is_empty_is_an_error_and_not_a_loss(archive: Archive) -> None:
    archive.plan()
    archive.delete(*(f"{name}.wav" for name in "abcde"))
    with pytest.raises(ConfigError, match="nothing is there any more"):
        archive.changes(update=True)
    assert plan_names(archive.storage) == ["plan"]


def test_what_was_planned_last_night_is_not_said_again_where_the_source_cannot_be_listed(archive: Archive) -> None:
    def fail() -> Changes:
        raise ConfigError("source.uri: not there")

    planned = Changes(new=1, taken_up=True)
    note_changes(archive.storage, archive.source, PAIRS, lambda: planned)
    assert last_changes(archive.storage) == planned
    note_changes(archive.storage, archive.source, PAIRS, fail)
    assert last_changes(archive.storage) == Changes()
    for wanted in ("update", "strict"):
        with pytest.raises(ConfigError, match="not there"):
            note_changes(archive.storage, archive.source, PAIRS.model_copy(update={wanted: True}), fail)


def test_files_of_another_kind_do_not_change_what_the_source_is(archive: Archive) -> None:
    archive.plan()
    for number in range(9):
        archive.put(f"{number}.tar", tar_of(["x.wav"]))
    assert archive.changes() == Changes()


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_changes_updates_kills_and_retries_ends_exactly(archive: Archive, seed: int) -> None:
    """Drivers commit some of their units and are killed; late ones commit what was withdrawn. Then the rest is done."""
    dice = random.Random(seed)
    fingerprint = archive.plan()
    begun = left(archive.storage)
    present = {f"{name}.wav" for name in "abcde"}
    ever = set(present)
    for day in range(6):
        for _ in range(dice.randint(0, 3)):
            name = f"{dice.choice('abcdefgh')}.wav"
            if name in present and len(present) > 2 and dice.random() < 0.4:
                archive.delete(name)
                present.discard(name)
            else:
                archive.write(name, content=b"x" * dice.randint(1, 9))
                present.add(name)
                ever.add(name)
        archive.changes(update=True)
        if dice.random() < 0.4:
            plan_retry(archive.storage, PAIRS)
        begun += left(archive.storage)
        dead = [name for name in present if dice.random() < 0.2]
        run(archive.storage, fingerprint, only=lambda _: dice.random() < 0.6, dead=dead, text=str(day))
        for unit in dice.sample(begun, min(2, len(begun))):
            commit(archive.storage, unit, fingerprint, text="late")
        publish_tables(archive.storage)
        assert close_books(archive.storage)["complaints"] == []
        assert not set(archive.texts()) & set(archive.letters())
    archive.changes(update=True)
    archive.done(text="end")
    assert archive.changes() == Changes()
    texts, letters = archive.texts(), archive.letters()
    assert present <= set(texts) | set(letters) <= ever
    assert not set(texts) & set(letters)
    assert (
        Counter(letters).most_common(1) in ([], [(min(letters, default=""), 1)]) or max(Counter(letters).values()) == 1
    )
    books = close_books(archive.storage)
    assert (books["closed"], books["complete"]) == (True, True)
    assert books["recordings_planned"] == len(texts) + len(letters)
    while plan_retry(archive.storage, PAIRS):
        archive.done(text="end")
    assert set(archive.texts()) >= present


def _update_and_commit(folder: str, done: Connection) -> None:
    """A driver: plan the update, commit some of what is left."""
    archive = Archive(Path(folder))
    done.send_bytes(b"started")
    archive.changes(update=True)
    done.send_bytes(b"planned")
    for unit in left(archive.storage)[:8]:  # a few, so that six kills leave some
        commit(archive.storage, unit, archive.plan(), text="new")
        done.send_bytes(b"committed")
    signal.pause()


def test_an_update_that_is_killed_at_any_moment_ends_exactly_after_the_same_command_again(archive: Archive) -> None:
    """SIGKILL while the round is planned, and again and again between and inside the commits."""
    dice = random.Random(3)
    archive.plan()
    archive.done(text="old")
    new = ["b", *(f"{letter}{number}" for letter in "fghijklmnop" for number in range(10))]
    archive.write(*(f"{name}.wav" for name in new))
    archive.delete("c.wav")
    for kill in range(6):
        with killable(_update_and_commit, str(archive.folder.parent)) as (process, done):
            done.recv_bytes()
            for _ in range(kill // 2 and dice.randint(1, 2)):
                done.recv_bytes()
            time.sleep(dice.uniform(0, 0.03))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
    archive.changes(update=True)
    archive.done(text="new")
    assert plan_names(archive.storage) == ["plan", "round-1"]
    assert archive.texts() == dict.fromkeys((f"{name}.wav" for name in "acde"), "old") | dict.fromkeys(
        (f"{name}.wav" for name in new), "new"
    )
    assert close_books(archive.storage)["closed"]


def test_a_round_says_what_it_is_about(archive: Archive) -> None:
    fingerprint = archive.plan()
    commit(archive.storage, left(archive.storage)[0], fingerprint)
    archive.delete("a.wav", "c.wav")
    archive.changes(update=True)
    about = read_round(archive.storage, "round-1")
    units = [planned.unit.unit_id for planned in read_plan(archive.storage)]
    assert (about.kind, about.withdrawn, about.kept) == ("update", (units[1],), ("a.wav",))
    assert about.gone == {"c.wav": ((units[1], 0),)}
