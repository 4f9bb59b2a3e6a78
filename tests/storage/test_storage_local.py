"""Tests of the local storage: atomic puts, one winner among processes, listing, replacing a directory at once."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pipeline.storage.local import LocalStorage
from pipeline.storage.scratch import scratch_folder
from tests.support.storages import check_kept_files, check_puts, check_versions, fill

ROUNDS = 50


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "out")


def _race(root: str, name: int, barrier: object, wins: object) -> None:
    storage = LocalStorage(Path(root))
    for index in range(ROUNDS):
        barrier.wait(200)  # type: ignore[attr-defined]
        if storage.put_if_absent(f"commits/{index:02d}/unit.json", f"writer {name}".encode()):
            wins.put((index, name))  # type: ignore[attr-defined]


def test_of_eight_racing_processes_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(8), context.Queue()
    processes = [context.Process(target=_race, args=(str(tmp_path), name, barrier, wins)) for name in range(8)]
    for process in processes:
        process.start()
    won = dict(wins.get(timeout=250) for _ in range(ROUNDS))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(won) == list(range(ROUNDS))
    assert wins.empty()
    for index, name in won.items():
        assert (tmp_path / f"commits/{index:02d}/unit.json").read_bytes() == f"writer {name}".encode()
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_reader_never_sees_half_an_object(storage: LocalStorage) -> None:
    bodies = [bytes([index]) * 1_000_000 for index in range(2)]
    storage.put("a/b", bodies[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for body in bodies:
                storage.put("a/b", body)

    writer = threading.Thread(target=write)
    writer.start()
    seen = {storage.get("a/b") for _ in range(200)}
    stop.set()
    writer.join()
    assert seen <= set(bodies)


def test_put_replaces_and_put_if_absent_does_not(storage: LocalStorage) -> None:
    check_puts(storage)


def test_an_answer_lost_on_nfs_still_counts_as_won(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_and_lose_the_answer(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link_and_lose_the_answer)
    storage.put("other", b"makes the directory")
    assert storage.put_if_absent("k", b"mine")
    assert storage.get("k") == b"mine"


def test_get_and_open_of_a_missing_key_raise_file_not_found(storage: LocalStorage) -> None:
    for read in (storage.get, storage.open):
        with pytest.raises(FileNotFoundError):
            read("missing/key")
    assert not storage.exists("missing/key")
    storage.delete("missing/key")


def test_open_reads_ranges(storage: LocalStorage) -> None:
    storage.put("k", b"0123456789")
    with storage.open("k") as stream:
        stream.seek(4)
        assert stream.read(3) == b"456"


def test_list_is_sorted_by_key_as_object_stores_do_and_hides_temporary_files(storage: LocalStorage) -> None:
    keys = ["a.txt", "a/b/c", "a/b.json", "ab", "b", "commits/0a/1.json", "commits/0b/2.json", "commits/f0/3.json", "ä"]
    for key in reversed(keys):
        storage.put(key, b"")
    (storage.root / ".tmp" / "left-behind").write_bytes(b"")
    assert list(storage.list("")) == sorted(keys, key=lambda key: key.encode())
    assert list(storage.list("commits/0")) == ["commits/0a/1.json", "commits/0b/2.json"]
    assert list(storage.list("a/b")) == ["a/b.json", "a/b/c"]
    assert list(storage.list("nothing/here")) == []


def test_list_is_lazy(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in range(20):
        storage.put(f"commits/{folder:02d}/unit.json", b"")
    scanned: list[str] = []
    scandir = os.scandir

    def counting(path: str) -> object:
        scanned.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    next(storage.list("commits/"))
    assert len(scanned) == 2  # commits/, commits/00


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/../../x", "a//b", "", "a/./b", ".tmp/x", "a\0b"])
def test_a_key_cannot_leave_the_root(storage: LocalStorage, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        storage.put(key, b"")


def test_a_scratch_file_is_consumed_by_a_put(storage: LocalStorage) -> None:
    with storage.scratch() as directory:
        for name, put in (("one", storage.put), ("two", storage.put_if_absent)):
            (directory / name).write_bytes(name.encode())
            put(name, directory / name)
        assert list(directory.iterdir()) == []
    assert not directory.exists()
    assert storage.get("one") == b"one"
    assert storage.get("two") == b"two"


def test_replace_swaps_a_whole_directory(storage: LocalStorage) -> None:
    fill(storage, "old", 3)
    fill(storage, "new", 2)
    assert [storage.get(key) for key in storage.list("transcripts/")] == [b"new", b"new"]
    assert list((storage.root / ".tmp").iterdir()) == []


def test_the_version_of_an_object_changes_when_it_is_written_again(storage: LocalStorage) -> None:
    check_versions(storage)
    check_kept_files(storage)


def test_replace_that_fails_leaves_the_old_directory(storage: LocalStorage) -> None:
    fill(storage, "old", 3)
    with pytest.raises(FileNotFoundError):
        fill(storage, "new", 2, missing="part-1")
    assert [storage.get(key) for key in storage.list("transcripts/")] == [b"old"] * 3


def test_replace_without_an_exchange_system_call_renames(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    fill(storage, "old", 3)
    fill(storage, "new", 2)
    assert [storage.get(key) for key in storage.list("transcripts/")] == [b"new", b"new"]


def test_listing_a_directory_during_replacements_shows_one_whole_generation(storage: LocalStorage) -> None:
    """A listing that began in the old directory may miss files after the exchange, so it does not count."""
    fill(storage, "g", 3)
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            fill(storage, "g", 5)
            fill(storage, "g", 3)

    writer = threading.Thread(target=replace)
    writer.start()
    table, seen = storage.root / "transcripts", set()
    for _ in range(2000):
        before = table.stat().st_ino
        count = len(list(table.iterdir()))
        if table.stat().st_ino == before:
            seen.add(count)
    stop.set()
    writer.join()
    assert seen in ({3}, {5}, {3, 5})


def test_sweep_removes_what_a_killed_process_left_and_nothing_fresh(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the machine's own has what other processes left
    code = (
        "import sys, time; from pathlib import Path; from pipeline.storage.local import LocalStorage\n"
        "with LocalStorage(Path(sys.argv[1])).scratch() as directory:\n"
        "    (directory / 'half').write_bytes(b'x'); print('ready', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(storage.root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert storage.sweep(3600) == 0
    old = time.time() - 7200
    for path in (storage.root / ".tmp").rglob("*"):
        os.utime(path, (old, old))
    storage.put("kept", b"1")
    assert storage.sweep(3600) == 1
    assert list((storage.root / ".tmp").iterdir()) == []
    assert storage.get("kept") == b"1"


def test_a_scratch_folder_in_use_is_not_walked_through(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every storage that opens looks for abandoned ones: a folder of 100,000 files cost it seconds."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    walked = []
    rglob = Path.rglob
    monkeypatch.setattr(
        Path, "rglob", lambda path, pattern: (walked.append(path) or inner for inner in rglob(path, pattern))
    )
    with scratch_folder() as folder:
        (folder / "file").touch()
        assert storage.sweep(3600) == 0
        assert walked == []
        old = time.time() - 7200
        for path in (folder / "file", folder):
            os.utime(path, (old, old))
        assert storage.sweep(3600) == 1
        assert walked
        folder.mkdir()


def test_a_storage_can_be_sent_to_other_processes(storage: LocalStorage) -> None:
    storage.put("k", b"1")
    assert pickle.loads(pickle.dumps(storage)).get("k") == b"1"
