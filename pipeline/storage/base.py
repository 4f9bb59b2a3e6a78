"""Where the output tree lives: whole objects by key, one conditional put, and a table that is replaced at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from pipeline.config import ConfigError, StorageConfig
from pipeline.storage.connect import SCHEMES
from pipeline.storage.local import open_local
from pipeline.storage.objects import open_objects

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # a disk that takes no more
BROKEN = FULL | {errno.EIO, errno.ESTALE}  # a disk or a store, and no program
WAY_ROUND = " (storage.single_writer=true goes on without, where you are sure that one job at a time writes there)"
COPY_BYTES = 4 * 2**20  # of one read while an object is copied
T = TypeVar("T")
U = TypeVar("U")


class OutputError(Exception):
    """An object of the output tree is damaged, missing or of another version: one line naming it."""


class Replacement(Protocol):
    """The files of a prefix that is being replaced. Write `path(name)`, then `add(name)`; leaving the block swaps."""

    versions: dict[str, str]  # of what was added, by key, as `Storage.versions` tells them

    def path(self, name: str) -> Path: ...
    def add(self, name: str) -> None: ...


class Storage(Protocol):
    """Objects by key ("commits/0a/0a12.json"). Every method is safe to call from threads; instances can be pickled.

    A `Path` given as data is a file below `scratch()` and is consumed. Missing keys raise FileNotFoundError; keys that
    leave the root raise ValueError; an output that cannot be reached raises ConfigError or OSError.
    """

    uri: str
    parallel: int  # how many requests are worth having in flight
    single_writer: bool  # nobody else writes here: put_if_absent looks first, and is no condition of the store's

    def put(self, key: str, data: bytes | Path) -> None:
        """Write a whole object, replacing any other: a reader sees the old bytes or the new ones, nothing between."""

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Write the object only where there is none. True: this call won; of all racing calls exactly one does."""

    def get(self, key: str) -> bytes: ...

    def open(self, key: str) -> BinaryIO:
        """A seekable reader that fetches ranges."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with `prefix`, in UTF-8 order, fetched as they are consumed."""

    def versions(self, prefix: str) -> dict[str, str]:
        """Keys that start with `prefix`, each with a mark that is another one once the object was written again."""

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A private local directory for files on their way to `put` or `put_if_absent`, removed afterwards."""

    def replace(self, prefix: str) -> contextlib.AbstractContextManager[Replacement]:
        """Replace all objects below the directory `prefix` by those added inside the block; on an error, none or some.

        Local: all at once. Object stores: object by object, in order of `add`; then what was not added is deleted.
        """

    def sweep(self, older_than_seconds: float) -> int:
        """Remove what killed processes left half-written and untouched for that long. Returns how many."""


def open_storage(uri: str, *, create: bool = True, config: StorageConfig | None = None) -> Storage:
    """The storage at a local directory, `file://`, or `s3://`, `gs://` or `az://bucket/prefix`.

    create: make it, and prove that it can be written.

    config: applied to this process (`apply`) before. Raises ConfigError, one line naming output.uri, where it cannot be
    read (or, with `create`, written).
    """
    config = config or StorageConfig()
    apply(config)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme in SCHEMES:
        opened: Storage = open_objects(uri, create=create)
    elif separator and scheme != "file":
        raise ConfigError(
            f"output.uri: {uri}: no {scheme}:// here; a local directory or s3://, gs:// or az://bucket/prefix"
        )
    else:
        opened = open_local(rest if separator else uri, create=create)
    opened.single_writer = config.single_writer
    return opened


def open_existing(uri: str, *, config: StorageConfig) -> Storage | None:
    """The storage at `uri` for reading; None for a local directory that does not exist yet and could be made.

    Raises ConfigError as `open_storage` does.
    """
    scheme, separator, rest = uri.partition("://")
    path = Path(rest if separator else uri).expanduser().absolute()
    if (scheme == "file" or not separator) and not path.exists():
        nearest = next(parent for parent in path.parents if parent.exists())
        if nearest.is_dir():
            return None
    return open_storage(uri, create=False, config=config)


def copy_object(source: Storage, target: Storage, key: str) -> None:
    """Copy the object at `key` from one storage to another, with no more than a buffer of it in memory."""
    with target.scratch() as folder, source.open(key) as stream:
        path = folder / "copy"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, COPY_BYTES)
        target.put(key, path)


def apply(config: StorageConfig) -> None:
    """Tell endpoint, region and profile to botocore and fsspec alike, in this process and those that it starts.

    What is set here goes before what the environment says: a profile hides the environment's keys.
    """
    settings = {
        "AWS_ENDPOINT_URL": config.endpoint,
        "AWS_ENDPOINT_URL_S3": config.endpoint,
        "AWS_DEFAULT_REGION": config.region,
        "AWS_REGION": config.region,
        "AWS_PROFILE": config.profile,
    }
    os.environ.update({name: value for name, value in settings.items() if value})
    if config.profile:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            os.environ.pop(name, None)


def race_probe(storage: Storage, *, rounds: int = 3, writers: int = 8) -> None:
    """Let `writers` threads put the same absent key; exactly one may win and its bytes must stand, in every round.

    Raises ConfigError naming the storage where two writers can win or none does: exactly-once cannot be kept there.
    With storage.single_writer there is nothing to race.
    """
    if storage.single_writer:
        return
    for _ in range(rounds):
        key = f"_run/probe-{uuid.uuid4().hex}"
        bodies = [f"{key} writer {index}".encode() for index in range(writers)]
        try:
            with ThreadPoolExecutor(writers) as pool:
                won = list(pool.map(partial(storage.put_if_absent, key), bodies))
            won.append(storage.put_if_absent(key, b"late"))
            stands = storage.get(key)
        except OSError as err:
            raise ConfigError(
                f"output.uri: {storage.uri}: no object can be put once only: {reason(err)}{WAY_ROUND}"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                storage.delete(key)
        if won.count(True) != 1 or stands != [*bodies, b"late"][won.index(True)]:
            raise ConfigError(
                f"output.uri: {storage.uri}: {won.count(True)} of {len(won)} writers of one key won where exactly one "
                f"must: this store cannot keep results exactly once{WAY_ROUND}"
            )


def read_json(storage: Storage, key: str) -> dict[str, Any]:
    """The JSON object at `key`; empty where there is none, or something else."""
    try:
        content = json.loads(storage.get(key))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def reason(error: OSError) -> str:
    """What the operating system or the store said, in one line."""
    return " ".join((error.strerror or str(error)).split())


def in_order(function: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """`map` with at most `workers` calls in flight and `2 * workers` results waiting; results come in order."""
    if workers <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[U]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
