"""Tests of the dry run's storage: the output is read as it is, and whatever is written, it stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import ConfigError
from pipeline.storage.base import open_storage
from pipeline.storage.overlay import OverlayStorage, dry_storage


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    storage = open_storage(str(tmp_path / "out"))
    for key in ("_run/plan.parquet", "_run/retry-2.parquet", "commits/0a/0a.json"):
        storage.put(key, f"old {key}".encode())
    return tmp_path / "out"


def test_writes_are_seen_inside_and_leave_the_output_as_it_was(output: Path) -> None:
    before = contents(output)
    with dry_storage(str(output)) as storage:
        assert storage.uri == str(output)
        storage.put("_run/config.yaml", b"new")
        storage.put("_run/retry-2.parquet", b"new")
        assert storage.put_if_absent("_run/retry-10.parquet", b"new")
        assert not storage.put_if_absent("_run/retry-10.parquet", b"newer")
        assert not storage.put_if_absent("_run/plan.parquet", b"new")
        assert storage.get("_run/plan.parquet") == b"old _run/plan.parquet"
        assert storage.get("_run/retry-2.parquet") == b"new"
        with storage.open("commits/0a/0a.json") as old, storage.open("_run/config.yaml") as new:
            assert (old.read(), new.read()) == (b"old commits/0a/0a.json", b"new")
        names = ["config.yaml", "plan.parquet", "retry-10.parquet", "retry-2.parquet"]
        assert list(storage.list("_run/")) == [f"_run/{name}" for name in names]
        assert list(storage.list("commits/")) == ["commits/0a/0a.json"]
        assert [storage.exists(key) for key in ("_run/plan.parquet", "_run/config.yaml", "x")] == [True, True, False]
    assert contents(output) == before


def test_a_file_that_lost_its_key_is_consumed(output: Path) -> None:
    with dry_storage(str(output)) as storage, storage.scratch() as folder:
        (folder / "plan").write_bytes(b"new")
        assert not storage.put_if_absent("_run/plan.parquet", folder / "plan")
        assert list(folder.iterdir()) == []


def test_an_output_that_is_not_there_stays_so(tmp_path: Path) -> None:
    with dry_storage(str(tmp_path / "new" / "out")) as storage:
        assert list(storage.list("")) == []
        storage.put("_run/plan.parquet", b"x")
        with pytest.raises(FileNotFoundError):
            storage.get("_run/config.yaml")
        root = storage.root
    assert list(tmp_path.iterdir()) == []
    assert not root.exists()


def test_what_could_not_be_undone_is_refused(tmp_path: Path) -> None:
    storage = OverlayStorage(tmp_path, None, "out")
    with pytest.raises(ValueError, match="deletes nothing"):
        storage.delete("a")
    with pytest.raises(ValueError, match="replaces nothing"), storage.replace("a"):
        pass


@pytest.mark.parametrize("uri", ["{file}", "{file}/below", "gs://bucket/out"])
def test_an_output_that_cannot_be_one_is_told_as_in_a_run(tmp_path: Path, uri: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"output\.uri: "), dry_storage(uri.format(file=tmp_path / "file")):
        pass
