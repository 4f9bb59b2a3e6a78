"""Tests of storage: choosing a storage by URI, the race probe, ordered parallel map."""

from __future__ import annotations

import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import ConfigError, StorageConfig
from pipeline.storage.base import ABANDONED_SECONDS, Storage, apply, in_order, open_storage, race_probe
from pipeline.storage.errors import StorageError
from pipeline.storage.local import LocalStorage
from pipeline.storage.scratch import scratch_folder


def test_plain_paths_and_file_uris_are_local(tmp_path: Path) -> None:
    open_storage(str(tmp_path / "a")).put("x", b"1")
    assert open_storage(f"file://{tmp_path}/a", create=False).get("x") == b"1"


@pytest.mark.parametrize("uri", ["ftp://bucket/out", "https://host/out", "/proc/fullcanvas", "/dev/null/out"])
def test_an_output_that_cannot_be_written_is_an_error_in_one_line(uri: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_storage(uri)
    assert str(error.value).startswith(f"output.uri: {uri}: ")
    assert "\n" not in str(error.value)


def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output\.uri"):
        open_storage(str(tmp_path / "missing"), create=False)
    assert not (tmp_path / "missing").exists()


def test_the_race_probe_accepts_a_local_disk_and_leaves_nothing(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    race_probe(storage)
    assert list(storage.list("")) == []


class Careless(LocalStorage):
    """A store that checks, then writes, as an S3 clone. Two writers check before one writes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.checked: list[str] = []
        self.two_have = threading.Event()

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        if absent := not self.exists(key):
            self.checked.append(key)
            if len(self.checked) > 1:
                self.two_have.set()
            self.two_have.wait(60)
        self.put(key, data)
        return absent


class Deaf(LocalStorage):
    """A store that ignores the condition altogether."""

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        self.put(key, data)
        return True


class Refusing(LocalStorage):
    """A file system without hard links."""

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("kind", [Careless, Deaf, Refusing])
def test_the_race_probe_refuses_a_store_where_not_exactly_one_writer_wins(
    tmp_path: Path, kind: type[LocalStorage]
) -> None:
    storage: Storage = kind(tmp_path)
    with pytest.raises(ConfigError) as error:
        race_probe(storage)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [1, 4])
def test_in_order_keeps_the_order_and_limits_what_is_read_ahead(workers: int) -> None:
    taken: list[int] = []
    ahead: list[int] = []

    def items() -> object:
        for index in range(50):
            taken.append(index)
            yield index

    def slow_first(index: int) -> int:
        time.sleep(0.02 if index % 7 == 0 else 0)
        return index * 2

    results = []
    for result in in_order(slow_first, items(), workers):  # type: ignore[arg-type]
        results.append(result)
        ahead.append(len(taken) - len(results))
    assert results == [index * 2 for index in range(50)]
    assert max(ahead) <= 2 * workers


def test_in_order_runs_workers_at_once() -> None:
    barrier = threading.Barrier(4, timeout=100)
    assert list(in_order(lambda index: (barrier.wait(), index)[1], range(4), 4)) == [0, 1, 2, 3]


def test_in_order_raises_the_first_error() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda index: 1 // (3 - index), range(10), 2))


def test_a_single_writer_needs_no_condition_of_the_store(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path), config=StorageConfig(single_writer=True))
    race_probe(storage)
    storage.put("a/there", b"old")
    assert not storage.put_if_absent("a/there", b"new")
    assert storage.put_if_absent("a/absent", b"new")
    assert (storage.get("a/there"), storage.get("a/absent")) == (b"old", b"new")
    with storage.scratch() as scratch:
        (scratch / "x").write_bytes(b"file")
        assert not storage.put_if_absent("a/there", scratch / "x")
        assert not (scratch / "x").exists()


def test_the_error_of_the_race_probe_names_single_writer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"storage\.single_writer=true"):
        race_probe(Deaf(tmp_path))


def test_the_storage_section_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_PROFILE",
    ):
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "theirs")
    monkeypatch.setenv("AWS_REGION", "theirs")
    apply(StorageConfig())
    assert os.environ["AWS_ACCESS_KEY_ID"] == os.environ["AWS_ENDPOINT_URL"] == "theirs"
    apply(StorageConfig(endpoint="http://here:1", region="eu-1", profile="ours"))
    assert os.environ["AWS_ENDPOINT_URL"] == os.environ["AWS_ENDPOINT_URL_S3"] == "http://here:1"
    assert os.environ["AWS_DEFAULT_REGION"] == os.environ["AWS_REGION"] == "eu-1"
    assert os.environ["AWS_PROFILE"] == "ours"
    assert "AWS_ACCESS_KEY_ID" not in os.environ


def test_what_killed_processes_left_is_deleted_by_age_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a put, the folders of a publication, probes, scratch folders; those of running processes stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    mine = tmp_path / "temporary/fullcanvas-mine"
    mine.mkdir()
    storage = open_storage(str(tmp_path / "out"))
    places = []
    for name in ("old", "new"):
        storage.put(f"_run/probe-{name}", b"")
        with scratch_folder("dry-") as scratch:
            places.append(scratch)
        assert not scratch.exists()
        scratch.mkdir()  # as a killed process leaves it
        (scratch / "part").touch()
        for place in (tmp_path / "out/.tmp" / name, tmp_path / f"out/.tmp/put-{name}", tmp_path / "out/_run" / name):
            place.mkdir(parents=True)
            (place / "file").touch()
    old = [*tmp_path.glob("out/.tmp/*old"), *tmp_path.glob("out/_run/*old"), places[0], mine]
    for path in [inner for place in old for inner in (place, *place.rglob("*"))]:
        os.utime(path, (time.time() - ABANDONED_SECONDS - 60,) * 2)
    open_storage(str(tmp_path / "out"), create=False)
    assert len(list((tmp_path / "out/.tmp").iterdir())) == 4  # reading deletes nothing
    open_storage(str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out/.tmp").iterdir()) == ["new", "put-new"]
    assert list(storage.list("_run/probe-")) == ["_run/probe-new"]
    assert [place.exists() for place in places] == [False, True]
    assert mine.exists()
    assert storage.exists("_run/old/file")


def test_an_output_that_disappears_is_not_made_again_elsewhere(tmp_path: Path) -> None:
    """What would be written below a mount that is gone, or read as missing there, would be lost."""
    storage = open_storage(str(tmp_path / "out"))
    storage.put("commits/aa/unit.json", b"{}")
    again = pickle.loads(pickle.dumps(storage))
    (tmp_path / "out").rename(tmp_path / "moved")
    calls: list[Callable[[Storage], object]] = [
        lambda out: out.put("commits/bb/unit.json", b"{}"),
        lambda out: out.put_if_absent("commits/bb/unit.json", b"{}"),
        lambda out: out.get("commits/aa/unit.json"),
        lambda out: out.open("commits/aa/unit.json"),
        lambda out: out.exists("commits/aa/unit.json"),
        lambda out: list(out.list("commits/")),
        lambda out: list(out.list("")),
        lambda out: out.scratch().__enter__(),
    ]
    for opened in (storage, again):
        for call in calls:
            with pytest.raises(StorageError, match=rf"^{tmp_path}/out: the directory.* is gone; once it is back"):
                call(opened)
    assert not (tmp_path / "out").exists()
    (tmp_path / "moved").rename(tmp_path / "out")
    assert storage.put_if_absent("commits/bb/unit.json", b"{}")
    assert list(storage.list("commits/")) == ["commits/aa/unit.json", "commits/bb/unit.json"]
