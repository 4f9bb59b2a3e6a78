"""Joins the parts of the shards to the files that an export has once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.storage.base import COPY_BYTES, Storage


def join_parts(storage: Storage, parts: Mapping[str, Sequence[str]], *, sort: bool) -> None:
    """Put each file of which there are parts: their keys, in order, by its key.

    sort: its lines are sorted by their bytes, and each stands once; then all of them are in memory.
    """
    for name, keys in parts.items():
        with storage.scratch() as folder:
            path = folder / "joined"
            _copy(storage, keys, path)
            if sort:
                path.write_bytes(b"".join(sorted(set(path.read_bytes().splitlines(keepends=True)))))
            storage.put(name, path)


def _copy(storage: Storage, keys: Sequence[str], path: Path) -> None:
    with path.open("wb") as file:
        for key in keys:
            with storage.open(key) as stream:
                shutil.copyfileobj(stream, file, COPY_BYTES)
