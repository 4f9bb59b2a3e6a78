"""Storage in a bucket: AWS S3, Ceph, MinIO and others that honour `If-None-Match: *` on a PUT, through botocore."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnectionError

from pipeline.config import ConfigError

ATTEMPTS, OPENING_ATTEMPTS = 12, 7  # about a minute and ten seconds of patience
FIRST_DELAY, LONGEST_DELAY = 0.2, 20.0  # seconds; doubled each time, a random half of it is taken off
TRANSIENT = {409, 429, 500, 502, 503, 504}  # 409: two conditional puts at once, the next attempt tells who won
TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "InternalError"}
LARGEST_PUT = 5 * 2**30  # bytes of one request, S3's limit; a condition on a multipart upload is ignored by Ceph
READ_AHEAD = 4 * 2**20  # bytes of one ranged get
T = TypeVar("T")


class S3Storage:
    """A `pipeline.storage.base.Storage` at `s3://bucket/prefix`; what the methods promise is written there.

    Endpoint, region and keys come from the usual places: AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID,
    AWS_PROFILE, ~/.aws, the machine's role. 500, 503, timeouts and resets are retried and counted in `counters`; 403
    and 404 never are.
    """

    parallel = 32

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.uri = uri.rstrip("/")
        self.bucket, self.prefix = parts.netloc, f"{parts.path.strip('/')}/".lstrip("/")
        self.counters: Counter[str] = Counter()
        self.single_writer = False
        self.attempts = ATTEMPTS
        self._lock = threading.Lock()
        self._connected: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The client, with its keys, is made again wherever it arrives.
        return type(self), (self.uri,), {"single_writer": self.single_writer}

    def put(self, key: str, data: bytes | Path) -> None:
        self.put_version(key, data)

    def put_version(self, key: str, data: bytes | Path) -> str:
        """`put`, and what `versions` tells of the object that it wrote."""
        _, etag = self._put(key, data)
        _consume(data)
        return etag

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        if self.single_writer:
            absent = not self.exists(key)
            if absent:
                self._put(key, data)
            _consume(data)
            return absent
        retried, _ = self._put(key, data, IfNoneMatch="*")
        # Refused only after a retry: the attempt whose answer was lost may have been the one that wrote it.
        won = retried is None or (retried > 0 and self._holds(key, data))
        _consume(data)
        return won

    def get(self, key: str) -> bytes:
        content: bytes = self._retry(lambda client: client.get_object(**self._at(key))["Body"].read(), key)
        return content

    def open(self, key: str) -> BinaryIO:
        head = self._retry(lambda client: client.head_object(**self._at(key)), key)
        return io.BufferedReader(_Ranges(self, key, head["ContentLength"], head["ETag"]), READ_AHEAD)

    def list(self, prefix: str) -> Iterator[str]:
        for entry in self._entries(prefix):
            yield entry["Key"].removeprefix(self.prefix)

    def versions(self, prefix: str) -> dict[str, str]:
        return {entry["Key"].removeprefix(self.prefix): entry["ETag"] for entry in self._entries(prefix)}

    def _entries(self, prefix: str) -> Iterator[dict[str, str]]:
        request = {"Bucket": self.bucket, "Prefix": self.prefix + prefix}
        while True:
            page = self._retry(lambda client: client.list_objects_v2(**request), prefix)
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def exists(self, key: str) -> bool:
        try:
            self._retry(lambda client: client.head_object(**self._at(key)), key)
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._retry(lambda client: client.delete_object(**self._at(key)), key)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="fullcanvas-") as directory:
            yield Path(directory)

    @contextlib.contextmanager
    def replace(self, prefix: str) -> Iterator[S3Replacement]:
        with self.scratch() as directory:
            replacement = S3Replacement(self, prefix, directory)
            yield replacement
            for key in list(self.list(f"{prefix}/")):
                if key not in replacement.versions:
                    self.delete(key)

    def sweep(self, older_than_seconds: float) -> int:  # noqa: ARG002
        return 0  # a put is one request: there is nothing half-written

    def read_range(self, key: str, start: int, size: int, etag: str) -> bytes:
        """Bytes [start, start + size) of the object while its etag is that one; OSError once it was replaced."""
        request = self._at(key) | {"Range": f"bytes={start}-{start + size - 1}", "IfMatch": etag}
        content: bytes = self._retry(lambda client: client.get_object(**request)["Body"].read(), key)
        return content

    def _at(self, key: str) -> dict[str, str]:
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise ValueError(f"{key!r} is no key below {self.uri}")
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    def _put(self, key: str, data: bytes | Path, **condition: str) -> tuple[int | None, str]:
        """None and the ETag: written. A number: refused by the condition, after so many retries."""
        target = self._at(key) | condition
        retries = -1

        def attempt(client: Any) -> tuple[int | None, str]:
            nonlocal retries
            retries += 1
            with _stream(data) as body:
                try:
                    return None, client.put_object(Body=body, **target)["ETag"]
                except ClientError as err:
                    if condition and _status(err) == 412:
                        return retries, ""
                    raise

        if _size(data) > LARGEST_PUT:
            raise OSError(errno.EFBIG, f"{_size(data)} bytes are more than one request may carry", f"{self.uri}/{key}")
        return self._retry(attempt, key)

    def _holds(self, key: str, data: bytes | Path) -> bool:
        with _stream(data) as ours, self.open(key) as theirs:
            while chunk := ours.read(READ_AHEAD):
                if theirs.read(len(chunk)) != chunk:
                    return False
            return not theirs.read(1)

    def _retry(self, request: Callable[[Any], T], key: str) -> T:
        for attempt in range(self.attempts):
            try:
                return request(self._client())
            except ClientError as err:
                failure, name = (
                    _as_oserror(err, f"{self.uri}/{key}"),
                    err.response["Error"].get("Code") or str(_status(err)),
                )
                if _status(err) not in TRANSIENT and name not in TRANSIENT_CODES:
                    raise failure from None
            except (HTTPClientError, NoConnectionError, IncompleteReadError) as err:
                name = type(err).__name__
                failure = OSError(errno.EIO, f"{name}: no answer from {self._host()}", f"{self.uri}/{key}")
            except BotoCoreError as err:  # no credentials, no such profile, ...
                raise OSError(errno.EINVAL, " ".join(str(err).split()), f"{self.uri}/{key}") from None
            if attempt + 1 == self.attempts:
                raise failure from None
            with self._lock:
                self.counters[name] += 1
            time.sleep(min(LONGEST_DELAY, FIRST_DELAY * 2**attempt) * random.uniform(0.5, 1))
        raise AssertionError("attempts is at least 1")

    def _client(self) -> Any:
        with self._lock:
            if self._connected is None or self._connected[0] != os.getpid():
                self._connected = os.getpid(), _connect(self.parallel)
            return self._connected[1]

    def _host(self) -> str:
        endpoint = urlsplit(self._client().meta.endpoint_url)
        return f"{endpoint.hostname}:{endpoint.port}" if endpoint.port else str(endpoint.hostname)


class S3Replacement:
    """Objects below a prefix that are put one by one and, at the end, are all there is."""

    def __init__(self, storage: S3Storage, prefix: str, directory: Path) -> None:
        self._storage, self._prefix, self._directory = storage, prefix, directory
        self.versions: dict[str, str] = {}

    def path(self, name: str) -> Path:
        return self._directory / name

    def add(self, name: str) -> None:
        key = f"{self._prefix}/{name}"
        self.versions[key] = self._storage.put_version(key, self._directory / name)


class _Ranges(io.RawIOBase):
    """A seekable view of an object that reads by range."""

    def __init__(self, storage: S3Storage, key: str, size: int, etag: str) -> None:
        self._storage, self._key, self._size, self._etag = storage, key, size, etag
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._size - self._position)
        if size <= 0:
            return 0
        buffer[:size] = self._storage.read_range(self._key, self._position, size, self._etag)
        self._position += size
        return size


def open_s3(uri: str, *, create: bool) -> S3Storage:
    """The storage at `s3://bucket/prefix`, proved readable, with `create` writable; ConfigError where that fails."""
    storage = S3Storage(uri)
    if not storage.bucket:
        raise ConfigError(f"output.uri: {uri}: no bucket; it reads s3://bucket/prefix")
    storage.attempts = OPENING_ATTEMPTS
    try:
        if create:
            probe = f"_run/probe-{uuid.uuid4().hex}"
            storage.put(probe, b"writable")
            storage.delete(probe)
        next(storage.list(""), None)
    except OSError as err:
        raise ConfigError(f"output.uri: {uri}: {err.strerror or err}") from None
    storage.attempts = ATTEMPTS
    return storage


def _connect(connections: int) -> Any:
    session = botocore.session.get_session()
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1},  # ours are counted
        request_checksum_calculation="when_required",  # older Ceph and MinIO refuse trailing checksums
        response_checksum_validation="when_required",
    )
    region = session.get_config_variable("region") or "us-east-1"  # compatibles have none; AWS redirects
    return session.create_client("s3", region_name=region, config=config)


def _as_oserror(error: ClientError, name: str) -> OSError:
    code, status = error.response["Error"].get("Code", ""), _status(error)
    message = f"{code or status}: {' '.join(str(error.response['Error'].get('Message') or 'refused').split())}"
    if code == "NoSuchBucket":
        return OSError(errno.ENXIO, "NoSuchBucket: the bucket does not exist", name)
    if status == 404:
        return FileNotFoundError(errno.ENOENT, message, name)
    if status in (401, 403):
        return PermissionError(errno.EACCES, message, name)
    return OSError(errno.EIO, message, name)


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _size(data: bytes | Path) -> int:
    return len(data) if isinstance(data, bytes) else data.stat().st_size


def _stream(data: bytes | Path) -> BinaryIO:
    return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")


def _consume(data: bytes | Path) -> None:
    if isinstance(data, Path):
        data.unlink()
