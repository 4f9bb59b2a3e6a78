"""What each kind of storage promises: puts, missing keys, tables that are replaced."""

from __future__ import annotations

import pickle

import pytest

from pipeline.storage.base import Storage


def check_puts(storage: Storage) -> None:
    """Check that put replaces an object and that put_if_absent does not."""
    assert storage.put_if_absent("commits/0a/k.json", b"first")
    assert not storage.put_if_absent("commits/0a/k.json", b"second")
    assert storage.get("commits/0a/k.json") == b"first"
    storage.put("commits/0a/k.json", b"third")
    assert storage.get("commits/0a/k.json") == b"third"


def check_missing(storage: Storage) -> None:
    """Check that a missing key raises FileNotFoundError when it is read, and nothing when it is deleted."""
    for read in (storage.get, storage.open):
        with pytest.raises(FileNotFoundError):
            read("missing/key")
    assert not storage.exists("missing/key")
    storage.delete("missing/key")
    storage.put("k", b"1")
    assert storage.exists("k")
    storage.delete("k")
    assert not storage.exists("k")


def fill(storage: Storage, generation: str, parts: int, missing: str | None = None) -> None:
    """Replace the table by `parts` files. missing: the name of a file that is added without being written."""
    with storage.scratch() as folder, storage.replace("transcripts") as table:
        for part in range(parts):
            if f"part-{part}" != missing:
                (folder / "new").write_text(generation)
            table.add(f"part-{part}", folder / "new")


def check_versions(storage: Storage) -> None:
    """Check that a replacement has the versions of its objects, and that a put changes the version of an object."""
    with storage.scratch() as folder, storage.replace("transcripts") as table:
        for name in ("a", "b"):
            (folder / name).write_text(name)
            table.add(name, folder / name)
    first = storage.versions("transcripts/")
    assert first == table.versions
    assert list(first) == ["transcripts/a", "transcripts/b"]
    storage.put("transcripts/a", b"x")
    assert storage.versions("transcripts/a") != {"transcripts/a": first["transcripts/a"]}
    assert storage.versions("transcripts/b") == {"transcripts/b": first["transcripts/b"]}


def check_kept_files(storage: Storage) -> None:
    """Check that a replacement keeps files that another process has not replaced, and adds files from copies of it."""
    fill(storage, "old", 3)
    versions = storage.versions("transcripts/")
    with storage.scratch() as folder, storage.replace("transcripts") as table:
        assert table.keep("part-1", versions["transcripts/part-1"])
        (folder / "new").write_text("new")
        version = pickle.loads(pickle.dumps(table)).add("part-7", folder / "new")
        table.versions["transcripts/part-7"] = version
    assert storage.versions("transcripts/") == table.versions
    assert table.versions["transcripts/part-1"] == versions["transcripts/part-1"]
    assert list(table.versions) == ["transcripts/part-1", "transcripts/part-7"]
    assert (storage.get("transcripts/part-1"), storage.get("transcripts/part-7")) == (b"old", b"new")
