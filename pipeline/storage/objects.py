"""Storage in a bucket, through obstore: S3 and compatible stores (s3://), Google Cloud Storage (gs://), Azure (az://).

Of racing writers one wins by the store's conditional PUT: `If-None-Match: *` on S3, Ceph, MinIO and Azure, and
`x-goog-if-generation-match: 0` on Google. s3:// is tested on Ceph, az:// on Azurite, gs:// on no real store.
"""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError

from pipeline.config import ConfigError
from pipeline.storage.answers import exists_already, judge
from pipeline.storage.connect import CannotConnect, Store, connect_store
from pipeline.storage.errors import StorageError, failure
from pipeline.storage.patience import patiently
from pipeline.storage.ranges import AHEAD_BYTES, Ranges, buffered
from pipeline.storage.scratch import scratch_folder, sweep_scratch

ATTEMPTS, OPENING_ATTEMPTS = 12, 7  # of one request; with the waits about 80 and 12 seconds
LARGEST_PUT = 5 * 2**30  # bytes that one request may carry on S3; Ceph ignores conditions on multipart uploads
LARGE_BYTES = 16 * 2**20  # a request with a longer body may take LARGE_SECONDS, others SMALL_SECONDS
SMALL_SECONDS, LARGE_SECONDS = 60, 1800  # from the connection to the end of the answer
PAGE_KEYS = 1000  # of one listing request
PROBES = "_run/probe-"  # prefix of the objects that only show that a store can be written
T = TypeVar("T")

_process: int | None = None  # id of the process that started obstore's threads


class ObjectStorage:
    """A `pipeline.storage.base.Storage` at `scheme://bucket/prefix`. That protocol documents the methods.

    A request is repeated after 409, 429, 5xx, a timeout or a reset, and counted in `patience.retries`; never after 403
    and 404. obstore's threads do not survive a fork: a process forked from one that has sent requests gets a
    RuntimeError.
    """

    parallel = 32

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.uri = uri.rstrip("/")
        self.scheme, self.bucket = parts.scheme, parts.netloc
        self.prefix = f"{parts.path.strip('/')}/".lstrip("/")
        self.single_writer = False
        self.attempts = ATTEMPTS
        self._lock = threading.Lock()
        self._clients: dict[int, Store] = {}  # by the seconds that a request may take

    def __reduce__(self) -> tuple[Any, ...]:
        # The process that receives it makes its own clients, with its own credentials.
        return type(self), (self.uri,), {"single_writer": self.single_writer}

    def put(self, key: str, data: bytes | Path) -> None:
        self.put_version(key, data)

    def put_version(self, key: str, data: bytes | Path) -> str:
        """Do what `put` does, and return the version of the object as `versions` does."""
        etag, _ = self._put(key, data, "overwrite")
        _consume(data)
        return _version(etag)

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        if self.single_writer:
            won = not self.exists(key)
            if won:
                self._put(key, data, "overwrite")
        else:
            won = self._create(key, data)
        _consume(data)
        return won

    def get(self, key: str) -> bytes:
        return self._patiently(lambda client: bytes(obstore.get(client, self._at(key)).bytes()), key)

    def open(self, key: str) -> BinaryIO:
        head = self._patiently(lambda client: obstore.head(client, self._at(key)), key)
        return buffered(Ranges(partial(self._read_range, key, head["e_tag"]), head["size"]))

    def list(self, prefix: str) -> Iterator[str]:
        for entry in self._entries(prefix):
            yield entry["path"].removeprefix(self.prefix)

    def versions(self, prefix: str) -> dict[str, str]:
        return {entry["path"].removeprefix(self.prefix): _version(entry["e_tag"]) for entry in self._entries(prefix)}

    def exists(self, key: str) -> bool:
        try:
            self._patiently(lambda client: obstore.head(client, self._at(key)), key)
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda client: obstore.delete(client, self._at(key)), key)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        with scratch_folder() as folder:
            yield folder

    @contextlib.contextmanager
    def replace(self, prefix: str) -> Iterator[ObjectReplacement]:
        replacement = ObjectReplacement(self, prefix)
        yield replacement
        for key in list(self.list(f"{prefix}/")):
            if key not in replacement.versions:
                self.delete(key)

    def older(self, prefix: str, seconds: float) -> Iterator[str]:
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        for entry in self._entries(prefix):
            if entry["last_modified"] < before:
                yield entry["path"].removeprefix(self.prefix)

    def sweep(self, older_than_seconds: float) -> int:
        return sweep_scratch(older_than_seconds)  # a put is one request, so there are no others

    def _create(self, key: str, data: bytes | Path) -> bool:
        """Write the object unless it exists. Returns whether this call wrote it."""
        etag, requests = self._put(key, data, "create")
        if etag is not None:
            return True
        # After a retry, an earlier request may have written the object and its answer got lost.
        return requests > 1 and self._contains(key, data)

    def _put(self, key: str, data: bytes | Path, mode: Literal["create", "overwrite"]) -> tuple[str | None, int]:
        """Return the etag of the written object, and how many requests were sent.

        mode: "create" returns None as the etag if there is an object already.
        """
        target, size = self._at(key), _size(data)
        if size > LARGEST_PUT:
            raise OSError(errno.EFBIG, f"{size} bytes; one request can carry {LARGEST_PUT}", f"{self.uri}/{key}")
        body = _body(data)
        requests = 0

        def request(client: Store) -> str | None:
            nonlocal requests
            requests += 1
            try:
                return obstore.put(client, target, body, mode=mode, use_multipart=False)["e_tag"] or ""
            except AlreadyExistsError as err:
                if mode == "create" and exists_already(err):
                    return None
                raise

        return self._patiently(request, key, LARGE_SECONDS if size > LARGE_BYTES else SMALL_SECONDS), requests

    def _contains(self, key: str, data: bytes | Path) -> bool:
        """Return whether the object at `key` has this content."""
        with _stream(data) as ours, self.open(key) as theirs:
            while chunk := ours.read(AHEAD_BYTES):
                if theirs.read(len(chunk)) != chunk:
                    return False
            return not theirs.read(1)

    def _read_range(self, key: str, etag: str | None, start: int, end: int) -> bytes:
        """Return the bytes from start to end. Raises OSError if the object no longer has this etag."""
        options: Any = {"range": (start, end), "if_match": etag}
        return self._patiently(lambda client: bytes(obstore.get(client, self._at(key), options=options).bytes()), key)

    def _entries(self, prefix: str) -> Iterator[Any]:
        """Yield the metadata of the objects whose keys start with `prefix`, in order.

        obstore lists whole folders. So this lists the folder from the prefix on, up to the first key without it.
        """
        directory, _, start = prefix.rpartition("/")
        folder = (self.prefix + directory).rstrip("/")
        after = self.prefix + prefix if start else None
        if start:
            with contextlib.suppress(FileNotFoundError):  # the key that equals the prefix; the listing begins after it
                yield self._patiently(lambda client: obstore.head(client, self._at(prefix)), prefix)
        pages: Iterator[Sequence[Any]] | None = None

        def next_page(client: Store) -> Sequence[Any]:
            nonlocal pages
            if pages is None:
                pages = iter(obstore.list(client, folder, offset=after, chunk_size=PAGE_KEYS))
            try:
                return next(pages, ())
            except Exception:
                pages = None  # the next attempt continues after the last key
                raise

        while page := self._patiently(next_page, prefix):
            for entry in page:
                if after is not None and entry["path"].encode() <= after.encode():
                    continue  # some stores ignore the offset
                if not entry["path"].startswith(self.prefix + prefix):
                    return
                yield entry
            after = page[-1]["path"]

    def _at(self, key: str) -> str:
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise ValueError(f"{key!r} is not a key below {self.uri}")
        return self.prefix + key

    def _patiently(self, request: Callable[[Store], T], key: str, seconds: int = SMALL_SECONDS) -> T:
        name = f"{self.uri}/{key}"
        try:
            client = self._client(seconds)
        except CannotConnect as err:
            raise failure(name, str(err), "keys") from None
        return patiently(lambda: request(client), lambda error: judge(error, name), self.attempts)

    def connect(self) -> None:
        """Make a client, without a request for an object. Raises CannotConnect."""
        self._client(SMALL_SECONDS)

    def _client(self, seconds: int) -> Store:
        global _process
        _process = _process or os.getpid()
        if _process != os.getpid():
            raise RuntimeError(
                "an object store cannot be used in a process that was forked from one that has used it: "
                'start the process by the method "spawn" or "forkserver"'
            )
        with self._lock:
            if seconds not in self._clients:
                self._clients[seconds] = connect_store(self.scheme, self.bucket, seconds)
            return self._clients[seconds]


class ObjectReplacement:
    """The new objects below a prefix. They are put one by one; at the end the old ones are deleted."""

    def __init__(self, storage: ObjectStorage, prefix: str) -> None:
        self._storage, self._prefix = storage, prefix
        self.versions: dict[str, str] = {}

    def add(self, name: str, path: Path) -> str:
        key = f"{self._prefix}/{name}"
        version = self.versions[key] = self._storage.put_version(key, path)
        return version

    def keep(self, name: str, version: str) -> bool:
        self.versions[f"{self._prefix}/{name}"] = version  # whoever overwrites it shows in the versions at the end
        return True


def open_objects(uri: str, *, create: bool) -> ObjectStorage:
    """Open the bucket at `uri`, which can be read and, with `create`, written.

    Raises ConfigError for an impossible or unknown bucket and for keys or a profile that are not there, StorageError if
    the store is out of reach or refuses the keys.
    """
    storage = ObjectStorage(uri)
    if not storage.bucket:
        raise ConfigError(f"output.uri: {uri}: no bucket; write {storage.scheme}://bucket/prefix")
    storage.attempts = OPENING_ATTEMPTS
    try:
        storage.connect()
        if create:
            probe = f"{PROBES}{uuid.uuid4().hex}"
            storage.put(probe, b"writable")
            storage.delete(probe)
        next(storage.list(""), None)
    except CannotConnect as err:
        raise ConfigError(f"output.uri: {uri}: {err}") from None
    except StorageError as err:
        if err.kind != "gone":
            raise
        raise ConfigError(f"output.uri: {str(err).partition(';')[0]}") from None
    storage.attempts = ATTEMPTS
    return storage


def _version(etag: str | None) -> str:
    """Return an etag without its quotes: Azure's listings omit them."""
    return (etag or "").strip('"')


def _body(data: bytes | Path) -> Any:
    """Return what obstore is to send. A file is mapped into memory, which takes no heap."""
    if isinstance(data, bytes) or not _size(data):
        return data if isinstance(data, bytes) else b""
    with data.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _size(data: bytes | Path) -> int:
    return len(data) if isinstance(data, bytes) else data.stat().st_size


def _stream(data: bytes | Path) -> BinaryIO:
    return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")


def _consume(data: bytes | Path) -> None:
    if isinstance(data, Path):
        data.unlink()
