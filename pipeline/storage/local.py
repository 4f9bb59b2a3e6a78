"""Storage in a local directory: write a temporary file, fsync, then rename(2), or link(2) where one writer may win."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from pipeline.config import ConfigError

TEMP = ".tmp"  # directory below the root for files that are being written; it is never listed
RENAME_EXCHANGE = 2  # flag of renameat2(2): swap two paths in one step
AT_FDCWD = -100
T = TypeVar("T")


class LocalStorage:
    """A `pipeline.storage.base.Storage` in the directory `root`. That protocol documents the methods."""

    parallel = 1

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)
        self.single_writer = False

    def put(self, key: str, data: bytes | Path) -> None:
        target = self._path(key)
        with self._temporary(data) as temporary:
            _with_parent(os.replace, temporary, target)
        _fsync(target.parent)

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        if self.single_writer:
            is_absent = not self.exists(key)
            if is_absent:
                self.put(key, data)
            elif isinstance(data, Path):
                data.unlink()
            return is_absent
        target = self._path(key)
        with self._temporary(data) as temporary:
            try:
                _with_parent(os.link, temporary, target)
            except FileExistsError:
                # On NFS the answer to a successful link may get lost, and its repetition fails. The inode knows.
                if temporary.stat().st_nlink < 2:
                    return False
        _fsync(target.parent)
        return True

    def get(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def open(self, key: str) -> BinaryIO:
        return self._path(key).open("rb")

    def list(self, prefix: str) -> Iterator[str]:
        folder, _, start = prefix.rpartition("/")
        base = f"{folder}/" if folder else ""
        yield from self._walk(self._path(folder) if folder else self.root, base, start)

    def versions(self, prefix: str) -> dict[str, str]:
        versions = {}
        for key in self.list(prefix):
            with contextlib.suppress(FileNotFoundError):
                versions[key] = _version(self._path(key))
        return versions

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        directory = self.root / TEMP / uuid.uuid4().hex
        directory.mkdir(parents=True)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @contextlib.contextmanager
    def replace(self, prefix: str) -> Iterator[LocalReplacement]:
        target = self._path(prefix)
        with self.scratch() as directory:
            staged = directory / target.name
            staged.mkdir()
            yield LocalReplacement(prefix, staged)
            _fsync(staged)
            _with_parent(_exchange, staged, target)
            _fsync(target.parent)

    def sweep(self, older_than_seconds: float) -> int:
        swept = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.root / TEMP):
                if time.time() - _last_change(Path(entry.path)) > older_than_seconds:
                    _remove(Path(entry.path))
                    swept += 1
        return swept

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or parts[0] == TEMP or "\0" in key:
            raise ValueError(f"{key!r} is not a key below {self.uri}")
        return self.root.joinpath(*parts)

    @contextlib.contextmanager
    def _temporary(self, data: bytes | Path) -> Iterator[Path]:
        temporary = data if isinstance(data, Path) else self.root / TEMP / uuid.uuid4().hex
        try:
            if isinstance(data, bytes):
                _with_parent(lambda content, path: path.write_bytes(content), data, temporary)
            _fsync(temporary)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _walk(self, directory: Path, base: str, start: str) -> Iterator[str]:
        try:
            with os.scandir(directory) as entries:
                names = [
                    entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                    for entry in entries
                    if entry.name.startswith(start)
                ]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in sorted(names):  # a directory with its slash sorts as an object store sorts its keys
            if not name.endswith("/"):
                yield base + name
            elif base or name != TEMP + "/":
                yield from self._walk(directory / name, base + name, "")


class LocalReplacement:
    """The next content of a directory. It is on the same file system, and is exchanged with the old one at the end."""

    def __init__(self, prefix: str, directory: Path) -> None:
        self._prefix, self._directory = prefix, directory
        self.versions: dict[str, str] = {}

    def path(self, name: str) -> Path:
        return self._directory / name

    def add(self, name: str) -> None:
        _fsync(self._directory / name)
        self.versions[f"{self._prefix}/{name}"] = _version(self._directory / name)


def open_local(path: str, *, create: bool) -> LocalStorage:
    """Open the directory `path`. create: make it and check that it can be written. Raises ConfigError if that fails."""
    storage = LocalStorage(Path(path).expanduser().absolute())
    try:
        if create:
            with storage.scratch() as directory:
                (directory / "probe").write_bytes(b"writable")
        next(storage.root.iterdir(), None)
    except OSError as err:
        raise ConfigError(f"output.uri: {path}: {err.strerror or err}") from None
    return storage


def _with_parent(function: Callable[[T, Path], object], source: T, target: Path) -> None:
    """Call `function`. If the target's directory is missing, make it durably and call again."""
    try:
        function(source, target)
    except FileNotFoundError:
        missing = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        for directory in missing:
            _fsync(directory.parent)
        function(source, target)


def _version(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(staged: Path, target: Path) -> None:
    """Move the directory `staged` to `target` in one step. Afterwards the old directory is at `staged`."""
    if not target.exists():
        with contextlib.suppress(OSError):  # another publisher was faster: exchange with its directory
            staged.rename(target)
            return
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        old, new = os.fsencode(target), os.fsencode(staged)
        if libc.renameat2(AT_FDCWD, new, AT_FDCWD, old, RENAME_EXCHANGE) == 0:
            return
    aside = staged.with_name(f"{staged.name}.old")  # NFS cannot exchange: for a moment the directory is missing
    target.rename(aside)
    staged.rename(target)


def _last_change(path: Path) -> float:
    newest = 0.0
    for inner in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, inner.stat().st_mtime)
    return newest


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
