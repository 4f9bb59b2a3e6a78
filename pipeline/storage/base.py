"""Where the output is written: whole objects by key, one conditional put, and tables that are replaced as a whole."""

from __future__ import annotations

import contextlib
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

import pyarrow as pa

from pipeline.config import ConfigError, StorageConfig
from pipeline.storage.connect import SCHEMES
from pipeline.storage.errors import reason, storage_error
from pipeline.storage.local import open_local
from pipeline.storage.objects import PROBES, open_objects

WAY_ROUND = " (storage.single_writer=true works without it, if only one job at a time writes there)"
ABANDONED_SECONDS = 24 * 3600  # nobody writes to a temporary file of this age any more
COPY_BYTES = 4 * 2**20  # of one read while an object is copied
T = TypeVar("T")
U = TypeVar("U")


class OutputError(Exception):
    """An object of the output is damaged, missing or of another version. One line, which names it. Exit code 3."""


@contextlib.contextmanager
def undamaged(name: str) -> Iterator[None]:
    """What Arrow cannot read in the block is an OutputError about the file `name`; an error of the store stays one."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as err:
        is_of_store = isinstance(err, OSError) and (type(err) is not OSError or err.errno is not None)
        if is_of_store:  # those of Arrow have no number
            raise
        raise OutputError(f"{name}: damaged or cut off: {' '.join(str(err).split())}") from None


class Replacement(Protocol):
    """The new files of a prefix that is being replaced. A copy in another process adds files too."""

    versions: dict[str, str]  # of the files that this copy added or kept, by key, as in `Storage.versions`

    def add(self, name: str, path: Path) -> str:
        """Add the file at `path`, which is below `scratch()`, as `name`. It is removed there. Returns its version."""

    def keep(self, name: str, version: str) -> bool:
        """Add the present file `name` without reading it. Returns False if it has another version meanwhile."""


class Storage(Protocol):
    """Objects by key, such as "commits/0a/0a12.json". Threads may share a storage, and it can be pickled.

    Data may be bytes, or the path of a file below `scratch()`, which is removed. Raises FileNotFoundError for a missing
    key, ValueError for a key that leads out of the root, StorageError or OSError if the output cannot be reached.
    """

    uri: str
    parallel: int  # requests that are worth sending at the same time
    single_writer: bool  # only one job writes here: put_if_absent checks first and puts without a condition

    def put(self, key: str, data: bytes | Path) -> None:
        """Write a whole object and replace any old one. A reader gets all old bytes or all new bytes."""

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Write the object unless it exists. Returns whether this call wrote it; of racing calls exactly one does."""

    def get(self, key: str) -> bytes:
        """Return the whole object."""

    def open(self, key: str) -> BinaryIO:
        """Open the object as a seekable reader, which fetches ranges."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with `prefix`, in UTF-8 order. They are fetched while they are consumed."""

    def versions(self, prefix: str) -> dict[str, str]:
        """Return the keys that start with `prefix`, with a version that changes when the object is written again."""

    def exists(self, key: str) -> bool:
        """Return whether there is an object at `key`."""

    def delete(self, key: str) -> None:
        """Delete the object; a missing one is not an error."""

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """Make a private local directory for files that are to be put. It is removed at the end of the block."""

    def replace(self, prefix: str) -> contextlib.AbstractContextManager[Replacement]:
        """Replace all objects below the directory `prefix` by those that the block adds.

        A local directory is replaced at once, at the end of the block. In an object store each object is put as it is
        added, and at the end the old ones are deleted; after an error in the block some objects are replaced.
        """

    def older(self, prefix: str, seconds: float) -> Iterator[str]:
        """Yield the keys that start with `prefix` whose objects were written more than `seconds` ago."""

    def sweep(self, older_than_seconds: float) -> int:
        """Delete the temporary files of killed processes that nobody changed for so long. Returns how many.

        They are on this machine, beside the output or in the folder for temporary files.
        """


def open_storage(uri: str, *, create: bool = True, config: StorageConfig | None = None) -> Storage:
    """Open a local directory, `file://` URL, or `s3://`, `gs://` or `az://bucket/prefix`.

    create: make it, check that it can be written, and clear what killed processes left there (`clear_abandoned`).
    config: is applied to this process first (`apply`). Raises ConfigError, one line that names output.uri, if there is
    nothing that could be read or, with `create`, written; and StorageError if the store or the disk is out of reach.
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
    if create:
        clear_abandoned(opened)
    return opened


def open_input(key: str, uri: str, config: StorageConfig) -> Storage:
    """Open what a job only reads. Raises as `open_storage`; the line names `key`, which says where it is."""
    try:
        return open_storage(uri, create=False, config=config)
    except ConfigError as err:
        raise ConfigError(str(err).replace("output.uri", key, 1)) from None


def clear_abandoned(storage: Storage) -> None:
    """Delete what killed processes left behind more than a day ago: temporary files, scratch folders, probes."""
    storage.sweep(ABANDONED_SECONDS)
    for probe in list(storage.older(PROBES, ABANDONED_SECONDS)):
        storage.delete(probe)


def open_existing(uri: str, *, config: StorageConfig) -> Storage | None:
    """Open the storage at `uri` for reading. Returns None for a local directory that does not exist and could be made.

    Raises ConfigError as `open_storage`.
    """
    scheme, separator, rest = uri.partition("://")
    path = Path(rest if separator else uri).expanduser().absolute()
    if (scheme == "file" or not separator) and not path.exists():
        nearest = next(parent for parent in path.parents if parent.exists())
        if nearest.is_dir():
            return None
    return open_storage(uri, create=False, config=config)


def copy_object(source: Storage, target: Storage, key: str) -> None:
    """Copy the object at `key` from one storage to another. Memory: 4 MiB."""
    with target.scratch() as folder, source.open(key) as stream:
        path = folder / "copy"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, COPY_BYTES)
        target.put(key, path)


def apply(config: StorageConfig) -> None:
    """Set endpoint, region and profile for botocore and fsspec, in this process and in those that it starts.

    These settings take precedence over the environment; with a profile, access keys of the environment are removed.
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
    """Let `writers` threads put the same absent key, in several rounds. Exactly one must win, and its bytes must stay.

    Raises ConfigError, which names the storage, if not: results cannot be written exactly once there. Does nothing with
    storage.single_writer.
    """
    if storage.single_writer:
        return
    for _ in range(rounds):
        key = f"{PROBES}{uuid.uuid4().hex}"
        bodies = [f"{key} writer {index}".encode() for index in range(writers)]
        try:
            with ThreadPoolExecutor(writers) as pool:
                won = list(pool.map(partial(storage.put_if_absent, key), bodies))
            won.append(storage.put_if_absent(key, b"late"))
            stored = storage.get(key)
        except OSError as err:
            broken = storage_error(err)
            if broken and broken.kind != "refused":
                raise broken from None
            raise ConfigError(
                f"output.uri: {storage.uri}: a conditional put failed: {reason(err)}{WAY_ROUND}"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                storage.delete(key)
        if won.count(True) != 1 or stored != [*bodies, b"late"][won.index(True)]:
            raise ConfigError(
                f"output.uri: {storage.uri}: {won.count(True)} of {len(won)} writers of one key won, and exactly one "
                f"must: results cannot be written exactly once to this store{WAY_ROUND}"
            )


def read_json(storage: Storage, key: str) -> dict[str, Any]:
    """Return the JSON object at `key`; {} if there is none, or if it is something else."""
    try:
        content = json.loads(storage.get(key))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def delete_all(storage: Storage, keys: Iterable[str]) -> None:
    """Delete these objects, in parallel where that is worth it."""
    deque(in_order(storage.delete, keys, storage.parallel), maxlen=0)


def in_order(function: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """Yield the results of `function`, in order of `items`. So many threads work, at most 2 * workers items ahead."""
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
