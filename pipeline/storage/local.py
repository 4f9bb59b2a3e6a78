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
from typing import Any, BinaryIO, TypeVar

from pipeline.config import ConfigError
from pipeline.storage.errors import failure, naming, storage_error
from pipeline.storage.scratch import sweep_folder, sweep_scratch

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
        self._device = _device(root)  # number of the file system; None: the directory does not exist yet

    def __reduce__(self) -> tuple[Any, ...]:
        # Another machine may know the same file system by another number.
        return type(self), (self.root,), {"uri": self.uri, "single_writer": self.single_writer}

    def put(self, key: str, data: bytes | Path) -> None:
        target = self._path(key)
        with self._temporary(data) as temporary:
            try:
                self._with_parent(os.replace, temporary, target)
            except (NotADirectoryError, IsADirectoryError):  # "a" and "a/b" are two keys for an object store alone
                raise failure(str(target), "one key is a file and a folder of others here", "refused") from None
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
                self._with_parent(os.link, temporary, target)
            except FileExistsError:
                # On NFS the answer to a successful link may get lost, and its repetition fails. The inode knows.
                if temporary.stat().st_nlink < 2:
                    return False
        _fsync(target.parent)
        return True

    def get(self, key: str) -> bytes:
        with self._rooted():
            return self._path(key).read_bytes()

    def open(self, key: str) -> BinaryIO:
        with self._rooted():
            return self._path(key).open("rb")

    def list(self, prefix: str) -> Iterator[str]:
        folder, _, start = prefix.rpartition("/")
        base = f"{folder}/" if folder else ""
        top = self._path(folder) if folder else self.root
        if not top.is_dir():
            self._check_root()
        yield from self._walk(top, base, start)

    def versions(self, prefix: str) -> dict[str, str]:
        versions = {}
        for key in self.list(prefix):
            with contextlib.suppress(FileNotFoundError):
                versions[key] = _version(self._path(key))
        return versions

    def exists(self, key: str) -> bool:
        is_there = self._path(key).is_file()
        if not is_there:
            self._check_root()
        return is_there

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        directory = self.root / TEMP / uuid.uuid4().hex
        self._check_root()
        directory.mkdir(parents=True)
        try:
            with naming(self.root):
                yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @contextlib.contextmanager
    def replace(self, prefix: str) -> Iterator[LocalReplacement]:
        target = self._path(prefix)
        with self.scratch() as directory:
            staged = directory / target.name
            staged.mkdir()
            yield LocalReplacement(prefix, target, staged)
            _fsync(staged)
            self._with_parent(_exchange, staged, target)
            _fsync(target.parent)

    def older(self, prefix: str, seconds: float) -> Iterator[str]:
        for key in self.list(prefix):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - self._path(key).stat().st_mtime > seconds:
                    yield key

    def sweep(self, older_than_seconds: float) -> int:
        return sweep_folder(self.root / TEMP, older_than_seconds) + sweep_scratch(older_than_seconds)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or parts[0] == TEMP or "\0" in key:
            raise ValueError(f"{key!r} is not a key below {self.uri}")
        return self.root.joinpath(*parts)

    @contextlib.contextmanager
    def _temporary(self, data: bytes | Path) -> Iterator[Path]:
        temporary = data if isinstance(data, Path) else self.root / TEMP / uuid.uuid4().hex
        try:
            with naming(self.root):
                if isinstance(data, bytes):
                    self._with_parent(lambda content, path: path.write_bytes(content), data, temporary)
                _fsync(temporary)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _with_parent(self, function: Callable[[T, Path], object], source: T, target: Path) -> None:
        """Call `function`. If the target's directory is missing, make it durably and call again."""
        try:
            function(source, target)
        except FileNotFoundError:
            self._check_root()
            missing = [parent for parent in target.parents if not parent.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            for directory in missing:
                _fsync(directory.parent)
            function(source, target)

    @contextlib.contextmanager
    def _rooted(self) -> Iterator[None]:
        """Within the block a missing file is only that if the root is there."""
        try:
            yield
        except FileNotFoundError:
            self._check_root()
            raise

    def _check_root(self) -> None:
        """Raise StorageError if the root is gone, or another file system is there: what is written would be lost."""
        if self._device is not None and _device(self.root) != self._device:
            raise failure(self.uri, "the directory, or what was mounted there, is gone", "gone")

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

    def __init__(self, prefix: str, old: Path, new: Path) -> None:
        self._prefix, self._old, self._new = prefix, old, new
        self.versions: dict[str, str] = {}

    def add(self, name: str, path: Path) -> str:
        Path(path).replace(self._new / name)
        _fsync(self._new / name)
        version = self.versions[f"{self._prefix}/{name}"] = _version(self._new / name)
        return version

    def keep(self, name: str, version: str) -> bool:
        try:
            try:
                os.link(self._old / name, self._new / name)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without hard links
                shutil.copy2(self._old / name, self._new / name)
                _fsync(self._new / name)
            now = _version(self._new / name)
        except FileNotFoundError:
            return False
        self.versions[f"{self._prefix}/{name}"] = now
        return now == version


def open_local(path: str, *, create: bool) -> LocalStorage:
    """Open the directory `path`. create: make it and check that it can be written.

    Raises ConfigError if that is impossible, StorageError if the disk is full or fails.
    """
    root = Path(path).expanduser().absolute()
    try:
        if create:
            with LocalStorage(root).scratch() as directory:
                (directory / "probe").write_bytes(b"writable")
        next(root.iterdir(), None)
    except OSError as err:
        raise storage_error(err) or ConfigError(f"output.uri: {path}: {err.strerror or err}") from None
    return LocalStorage(root)


def _device(path: Path) -> int | None:
    try:
        return path.stat().st_dev
    except FileNotFoundError:
        return None


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
