"""Files anywhere fsspec reaches: opening, versions, and ranged reads that are patient with a network."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.config import ConfigError
from pipeline.schemas import BadRecording, UnreachableError
from pipeline.storage.patience import Failure, patiently
from pipeline.storage.ranges import Ranges, Slice, buffered

MAX_RECORDING_BYTES = 512 << 20  # of what must be read whole; more is dead-lettered as too_large
WHOLE_BYTES = 32 << 20  # audio up to this size is read in one request, more of it by range while it is decoded
ATTEMPTS = 7  # about 12 seconds, longer than a gateway's restart

T = TypeVar("T")
_MISSING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_MISSING_ERRNO = (errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP)  # EINVAL: s3fs's word for a range outside the object
_NETWORK = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
)
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError")


def open_fs(uri: str) -> tuple[Any, str]:
    """The file system of a path or URL and the path on it (local: absolute).

    Raises ConfigError where no such file system exists, is installed or can be reached.
    """
    if uri.startswith("/"):
        return LocalFileSystem(), uri.rstrip("/") or "/"
    try:
        fs, path = url_to_fs(uri)
    except Exception as err:  # noqa: BLE001 of whatever file system: a chain of URLs opens archives here
        raise ConfigError(f"source.uri: {uri}: {one_line(err)}") from None
    return fs, path


def is_local(fs: Any) -> bool:
    return isinstance(fs, LocalFileSystem)


def uri_of(fs: Any, path: str, like: str) -> str:
    """What opens `path` of `fs` again: an absolute local path, else a URL (or chain of URLs) built like `like`."""
    if is_local(fs):
        return path
    parts = like.split("::")
    if len(parts) == 1:
        return cast(str, fs.unstrip_protocol(path))
    place = next((index for index, part in enumerate(parts) if "://" in part), len(parts) - 1)
    scheme, separator, _ = parts[place].partition("://")
    parts[place] = path if not separator or "://" in path else f"{scheme}://{path}"
    return "::".join(parts)


def relative_to(uri: str, path: str) -> str:
    """The URI of `path` as written in the file `uri`: absolute paths and URLs stand, others count from its folder."""
    return path if path.startswith("/") or "://" in path else f"{uri.rpartition('/')[0]}/{path}"


def version_of(info: Mapping[str, Any]) -> str:
    """The etag where there is one, else modification time and size; "" where the store tells neither."""
    for key in ("ETag", "etag", "md5Hash"):
        if info.get(key):
            return str(info[key]).strip('"')
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        if info.get(key):
            return f"{info[key]}-{info.get('size')}"
    return ""


def read_file(uri: str, size: int = 0) -> bytes:
    """The whole object; `size` as listed, 0 where unknown. Raises as `read_range`, and BadRecording("too_large")."""
    fs, path = _open(uri)

    def fetch() -> bytes:
        expected = size or _size(fs, path, uri)
        if expected > MAX_RECORDING_BYTES:
            raise BadRecording("too_large", f"{uri}: {expected:,} bytes; at most {MAX_RECORDING_BYTES:,} are read")
        return cast(bytes, fs.cat_file(path, start=0, end=expected) if expected else fs.cat_file(path))

    return ask(fetch, uri)


def read_audio(uri: str, size: int = 0, offset: int | None = None) -> bytes | BinaryIO:
    """The object, or its `size` bytes from `offset` on: as bytes, or where they are many as a seekable file of ranges.

    size: as listed, 0 where unknown. Raises as `read_range`; fewer bytes than `size` are no error here.
    """
    if not size:
        fs, path = _open(uri)
        size = ask(lambda: _size(fs, path, uri), uri)
    if size > WHOLE_BYTES:
        stream = open_stream(uri)
        return stream if offset is None else buffered(Slice(stream, offset, size), io.DEFAULT_BUFFER_SIZE)
    return read_file(uri, size) if offset is None else read_range(uri, offset, offset + size)


def read_range(uri: str, start: int, end: int) -> bytes:
    """Bytes start..end, fewer where the object ends before.

    Raises BadRecording("missing_file") where it is not there or not readable; UnreachableError, which is about no
    recording at all and must end the work, where the network does not heal.
    """
    if end <= start:
        return b""
    fs, path = _open(uri)
    data = ask(lambda: fs.cat_file(path, start=start, end=end), uri)
    return cast(bytes, data[start:end] if len(data) > end - start else data)  # some HTTP servers send all


def open_stream(uri: str, ahead_bytes: int | None = None) -> BinaryIO:
    """A seekable reader; remote: of ranges, `ahead_bytes` (4 MiB) at once. It and its reads raise as `read_range`."""
    fs, path = _open(uri)
    if is_local(fs):
        return cast(BinaryIO, ask(lambda: fs.open(path, "rb"), uri))
    info = ask(lambda: fs.info(path), uri)
    if info.get("type") != "file":
        raise BadRecording("missing_file", f"{uri}: not a file")
    if info.get("size") is None:  # a web server that does not tell: all of it
        return io.BytesIO(ask(lambda: fs.cat_file(path), uri))
    return buffered(Ranges(partial(read_range, uri), int(info["size"])), ahead_bytes)


def ask(call: Callable[[], T], uri: str) -> T:
    """Call, and again after transient errors. Raises as `read_range`."""
    return patiently(call, lambda error: _judge(error, uri), ATTEMPTS)


def _judge(error: Exception, uri: str) -> Failure | None:
    """What an error of a file system says of the recording, or of the store, at `uri`."""
    if not isinstance(error, network_errors()):
        return None
    line, name = one_line(error), type(error).__name__
    if is_missing(error):
        return Failure(BadRecording("missing_file", f"{uri}: {line}"), None)
    if uri.startswith(("http://", "https://")):  # one host of many on the web: the others may be fine
        return Failure(BadRecording("missing_file", f"{uri}: no answer, {ATTEMPTS} times: {line}"), name)
    return Failure(UnreachableError(f"{uri}: {line}"), None if name in _CREDENTIALS else name)


def network_errors(*more: type[BaseException]) -> tuple[type[BaseException], ...]:
    """What file systems raise: OSError, the base errors of those network libraries that are loaded, and `more`."""
    loaded = (getattr(sys.modules.get(module), name, None) for module, name in _NETWORK)
    return (*more, OSError, *(error for error in loaded if error is not None))


def is_missing(err: BaseException) -> bool:
    """Whether waiting is of no use: not there, not allowed, not a file."""
    status = getattr(err, "status", None)  # aiohttp
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 429)
    return isinstance(err, _MISSING) or (isinstance(err, OSError) and err.errno in _MISSING_ERRNO)


def one_line(err: BaseException) -> str:
    text = (isinstance(err, OSError) and err.strerror) or str(err) or type(err).__name__
    return " ".join(text.split())[:300]


def _open(uri: str) -> tuple[Any, str]:
    try:
        return open_fs(uri)
    except ConfigError as err:  # a URL out of a manifest
        raise BadRecording("missing_file", str(err).removeprefix("source.uri: ")) from None


def _size(fs: Any, path: str, uri: str) -> int:
    info = fs.info(path)
    if info.get("type") != "file":
        raise BadRecording("missing_file", f"{uri}: not a file")
    return int(info.get("size") or 0)
