"""Storage for a dry run: it reads through to the output and keeps what is written to itself, in a temporary folder."""

from __future__ import annotations

import contextlib
import heapq
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from pipeline.config import ConfigError
from pipeline.storage.base import Storage, open_storage
from pipeline.storage.local import LocalReplacement, LocalStorage


class OverlayStorage(LocalStorage):
    """Writes go to the directory `root`; what is not there is read from `base`, which is never changed.

    base: None where there is no output yet. Deleting and replacing are not for dry runs: they raise ValueError.
    """

    def __init__(self, root: Path, base: Storage | None, uri: str) -> None:
        super().__init__(root)
        self.base = base
        self.uri = uri  # messages name the output
        self.parallel = base.parallel if base else 1

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        if self.base and self.base.exists(key):
            if isinstance(data, Path):
                data.unlink()
            return False
        return super().put_if_absent(key, data)

    def get(self, key: str) -> bytes:
        return super().get(key) if self.base is None or super().exists(key) else self.base.get(key)

    def open(self, key: str) -> BinaryIO:
        return super().open(key) if self.base is None or super().exists(key) else self.base.open(key)

    def list(self, prefix: str) -> Iterator[str]:
        listings = [super().list(prefix), *([self.base.list(prefix)] if self.base else [])]
        for key, _ in groupby(heapq.merge(*listings, key=str.encode)):
            yield key

    def exists(self, key: str) -> bool:
        return super().exists(key) or (self.base is not None and self.base.exists(key))

    def delete(self, key: str) -> None:
        raise ValueError(f"{key}: a dry run deletes nothing")

    @contextlib.contextmanager
    def replace(self, prefix: str) -> Iterator[LocalReplacement]:
        raise ValueError(f"{prefix}: a dry run replaces nothing")
        yield


@contextlib.contextmanager
def dry_storage(uri: str) -> Iterator[OverlayStorage]:
    """The output at `uri` as it is, for a dry run. Raises ConfigError where it is there and cannot be read."""
    scheme, separator, rest = uri.partition("://")
    path = None if separator and scheme != "file" else Path(rest if separator else uri).expanduser()
    base = None if path is not None and not path.exists() else open_storage(uri, create=False)
    if path is not None and base is None:
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not above.is_dir():
            raise ConfigError(f"output.uri: {uri}: {above} is no directory")
    with tempfile.TemporaryDirectory(prefix="fullcanvas-dry-") as folder:
        yield OverlayStorage(Path(folder), base, uri)
