"""Files on any file system of fsspec: how they are opened and read, with retries where a network is in between."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from fsspec.asyn import sync
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.config import ConfigError, public
from pipeline.schemas import BadRecording
from pipeline.sources.access import trust, web, witness
from pipeline.sources.access.web import OWN_NETWORK
from pipeline.storage.errors import StorageError, failure, kind_of, storage_error
from pipeline.storage.patience import Failure, patiently
from pipeline.storage.ranges import Ranges, Slice, buffered

MAX_RECORDING_BYTES = 512 << 20  # limit of what must be read whole; a larger recording is too_large
WHOLE_BYTES = 32 << 20  # audio up to this size is read in one request; larger audio by range while it is decoded
FIRST_BYTES = 4 << 20  # so much is asked for at first of a file whose size nobody says
ATTEMPTS = 7  # about 12 seconds, longer than a gateway's restart

T = TypeVar("T")
_MISSING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_MISSING_ERRNO = (errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP)  # EINVAL: s3fs says so of a range outside the object
_NETWORK = (
    ("aiohttp", "ClientError"),
    ("httpx", "HTTPError"),  # of the hub, by the name of its version
    ("httpx2", "HTTPError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
)
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError")


def open_fs(uri: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path on it; a local path is absolute.

    Raises ConfigError if there is no such file system, if its package is not installed, or if it cannot be reached.
    """
    if uri.startswith("/"):
        return LocalFileSystem(), _on_disk(uri.rstrip("/") or "/")
    if uri.startswith(trust.WEB) and "::" not in uri:
        return web.file_system(trust.may_reach_own_network(uri)), uri
    try:
        fs, path = url_to_fs(uri)
    except Exception as err:  # noqa: BLE001 any file system raises its own; a chain of URLs opens archives here
        raise ConfigError(f"source.uri: {public(uri)}: {one_line(err)}") from None
    return fs, path


def _on_disk(path: str) -> str:
    r"""Return the path of a local file whose name is not UTF-8, from the text that stands for it: \xff is a byte."""
    if "\\x" not in path or Path(path).exists():
        return path
    raw = re.sub(rb"\\x([89a-f][0-9a-f])", lambda match: bytes.fromhex(match[1].decode()), os.fsencode(path))
    return os.fsdecode(raw) if Path(os.fsdecode(raw)).exists() else path


def is_local(fs: Any) -> bool:
    """Return whether a file system is the local one."""
    return isinstance(fs, LocalFileSystem)


def is_s3(fs: Any) -> bool:
    """Return whether a file system is that of s3fs."""
    return "s3" in fs.protocol and hasattr(fs, "call_s3")


def uri_of(fs: Any, path: str, like: str) -> str:
    """Return the URI that opens `path` of `fs`: an absolute local path, or a URL or chain of URLs formed as `like`."""
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
    """Return the URI of a path that the file `uri` contains. A relative path starts in the folder of that file."""
    if path.startswith("/") or "://" in path:
        return path
    joined = f"{uri.rpartition('/')[0]}/{path}"
    scheme, is_url, place = joined.partition("://")
    return joined if not is_url or "::" in joined else f"{scheme}://{posixpath.normpath(place)}"  # a store has no "../"


def version_of(info: Mapping[str, Any]) -> str:
    """Return the etag of a file; without one its modification time and size; "" if the store gives neither."""
    for key in ("ETag", "etag", "md5Hash"):
        if info.get(key):
            return str(info[key]).strip('"')
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        if time := info.get(key):  # the same time is a date in a listing and a number for one file, or the reverse
            return f"{time.timestamp() if isinstance(time, datetime) else time}-{info.get('size')}"
    return ""


def read_file(uri: str, size: int = 0) -> bytes:
    """Read a whole file. size: bytes as listed, 0 if unknown. Raises BadRecording("too_large"), or as `read_range`."""
    return read_versioned(uri, size)[0]


def read_versioned(uri: str, size: int = 0) -> tuple[bytes, str]:
    """Read a file as `read_file`. Returns also its version, if the store says it together with the bytes, else ""."""
    fs, path = _open(uri)

    def fetch() -> tuple[bytes, str]:
        expected = size or _size(fs, path, uri)
        if expected > MAX_RECORDING_BYTES:
            raise BadRecording("too_large", f"{uri}: {expected:,} bytes; the limit is {MAX_RECORDING_BYTES:,}")
        return _first(fs, path, expected) if expected else (cast(bytes, fs.cat_file(path)), "")

    return _read(fetch, uri)


def read_audio(uri: str, size: int = 0) -> tuple[bytes | BinaryIO, str]:
    """Read a file: as bytes with its version, as `read_versioned`, or if they are many as a seekable file of ranges.

    size: bytes as listed, 0 if unknown; fewer bytes are not an error here. The version of a file of ranges is that of
    its opening; `version_read` says that of what was read since. Raises as `read_range`.
    """
    if not size:
        fs, path = _open(uri)
        if not is_local(fs):  # most are smaller: one request instead of two
            data, version = _read(lambda: _first(fs, path, FIRST_BYTES), uri)
            if 0 < len(data) < FIRST_BYTES:
                return data, version
        size = ask(lambda: _size(fs, path, uri), uri)
    if size <= WHOLE_BYTES:
        return read_versioned(uri, size)
    stream = open_stream(uri)
    return stream, version_read(stream)


def read_part(uri: str, offset: int, size: int) -> bytes | BinaryIO:
    """Read `size` bytes of a file from `offset` on: as bytes, or if they are many as a seekable file of ranges.

    Fewer bytes are not an error here. Raises as `read_range`.
    """
    if size > WHOLE_BYTES:
        return buffered(Slice(open_stream(uri), offset, size), io.DEFAULT_BUFFER_SIZE)
    return read_range(uri, offset, offset + size)


def read_range(uri: str, start: int, end: int) -> bytes:
    """Read the bytes from start to end, fewer where the file ends before.

    Raises BadRecording("missing_file") if the file is not there or may not be read. Raises StorageError if its store
    does not answer any more or refuses the keys, or if its mount is gone: no recording is at fault.
    """
    return read_versioned_range(uri, start, end)[0]


def read_versioned_range(uri: str, start: int, end: int) -> tuple[bytes, str]:
    """Read as `read_range`. Returns also the version, if the store says it together with the bytes, else ""."""
    if end <= start:
        return b"", ""
    fs, path = _open(uri)
    data, version = _read(lambda: _part(fs, path, start, end), uri)
    return data[start:end] if len(data) > end - start else data, version  # some HTTP servers send the whole file


def open_stream(uri: str, ahead_bytes: int | None = None) -> BinaryIO:
    """Open a file as a seekable reader. A remote one fetches ranges of at least `ahead_bytes` (4 MiB).

    Opening and reading raise as `read_range`.
    """
    fs, path = _open(uri)
    if is_local(fs):
        return buffered(_LocalFile(_read(lambda: open(path, "rb", buffering=0), uri), uri), io.DEFAULT_BUFFER_SIZE)  # noqa: PTH123
    fs.invalidate_cache(path)  # it may remember an earlier listing
    info = ask(lambda: fs.info(path), uri)
    if info.get("type") != "file":
        raise BadRecording("missing_file", f"{uri}: not a file")
    if info.get("size") is None:  # a web server that does not say: read all of it
        return io.BytesIO(_read(lambda: fs.cat_file(path), uri))
    return buffered(_RemoteFile(uri, int(info["size"]), version_of(info)), ahead_bytes)


def version_read(file: BinaryIO) -> str:
    """The version of all that was read of a file of `open_stream`; "" where the store has not said it each time."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, Slice):
        return version_read(raw.whole)
    return raw.version if isinstance(raw, _RemoteFile) else ""


def ask(call: Callable[[], T], uri: str) -> T:
    """Call, and call again after errors that may pass. Raises as `read_range`."""
    return patiently(call, lambda error: _judge(error, uri), ATTEMPTS)


def listing_failure(error: BaseException, uri: str) -> Exception:
    """Return why a listing ends: StorageError if the store or the mount fails, else ConfigError about source.uri."""
    error, line = _cause(error), one_line(error)
    judged = _judge(error, uri)
    broken = judged.error if judged else None
    if judged and _on_web(uri):
        forbidden = _answer(error)[0] in (401, 403)
        if forbidden or not is_missing(error):
            broken = failure(uri, line, "denied" if forbidden else "unreachable")
    if not isinstance(broken, StorageError) or type(error).__name__ in _CREDENTIALS:
        return ConfigError(f"source.uri: {public(uri)}: {line}")
    if broken.kind == "gone" and "://" in uri:  # there is no such bucket
        return ConfigError(f"source.uri: {str(broken).partition('; ')[0]}")
    return broken


class _RemoteFile(Ranges):
    """Ranges of a remote file. Several threads may read."""

    def __init__(self, uri: str, size: int, version: str) -> None:
        super().__init__(self._range, size)
        self._uri, self._versions = uri, {version}

    def _range(self, start: int, end: int) -> bytes:
        data, version = read_versioned_range(self._uri, start, end)
        self._versions.add(version)
        return data

    @property
    def version(self) -> str:
        """That of its opening and of all ranges; "" where one has another, or none."""
        versions = tuple(self._versions)  # another thread may add one
        return versions[0] if len(versions) == 1 else ""


class _LocalFile(Ranges):
    """An open local file. Its errors are those of `read_range`, also where a mount disappears below it."""

    def __init__(self, file: io.FileIO, uri: str) -> None:
        super().__init__(self._range, os.fstat(file.fileno()).st_size)
        self._file, self._uri = file, uri

    def _range(self, start: int, end: int) -> bytes:
        return ask(lambda: os.pread(self._file.fileno(), end - start, start), self._uri)

    def read_ahead(self, ranges: int, end: int | None = None) -> None:
        """Do nothing: the operating system reads ahead."""

    def close(self) -> None:
        self._file.close()
        super().close()


def _read(call: Callable[[], T], uri: str) -> T:
    """Do what `ask` does, and remember that this file could be read."""
    got = ask(call, uri)
    witness.remember(uri)
    return got


def _judge(error: BaseException, uri: str) -> Failure | None:
    """Say what an error of a file system means: for the recording at `uri`, or for its whole store."""
    if not isinstance(error, network_errors()):
        return None
    error = _cause(error)
    line, name = one_line(error), type(error).__name__
    if OWN_NETWORK in line:
        return Failure(BadRecording("unsafe_name", f"{uri}: {line}"), None)
    if isinstance(error, StorageError):
        return Failure(error, None)
    if broken := storage_error(error):
        return Failure(failure(uri, line, broken.kind), name)
    kind = None if _on_web(uri) else kind_of(*_answer(error))
    if kind == "denied" and witness.still_readable(uri, network_errors()):
        return Failure(BadRecording("missing_file", f"{uri}: {line}"), None)
    if kind or name in _CREDENTIALS:
        return Failure(failure(uri, line, kind or "keys"), None)
    if is_missing(error):
        if folder := witness.lost_folder(uri):
            return Failure(failure(folder, "it has been read before, and is gone or empty now", "gone"), None)
        return Failure(BadRecording("missing_file", f"{uri}: {line}"), None)
    if _on_web(uri):  # a manifest may name many hosts, and the others may answer
        return _silent_host(error, uri)
    return Failure(failure(uri, line, "unreachable"), name)


def _silent_host(error: BaseException, uri: str) -> Failure:
    """Say what it means for a recording that a web server gives no answer. One that is too slow is not asked again."""
    line = one_line(error)
    if isinstance(error, TimeoutError):
        return Failure(BadRecording("missing_file", f"{uri}: no answer, or one that is too slow: {line}"), None)
    return Failure(BadRecording("missing_file", f"{uri}: no answer, {ATTEMPTS} times: {line}"), type(error).__name__)


def _on_web(uri: str) -> bool:
    return uri.startswith(trust.WEB)


def _cause(error: BaseException) -> BaseException:
    """Return the error of the network behind a FileNotFoundError: fsspec says so of a web server that is silent."""
    cause = error.__cause__
    is_hidden = isinstance(error, FileNotFoundError) and isinstance(cause, network_errors())
    return cause if is_hidden and cause and _answer(cause)[0] not in (404, 410) else error


def is_absent(error: BaseException) -> bool:
    """Return whether the store says that nothing is there, and not only that it cannot be asked."""
    return isinstance(_cause(error), FileNotFoundError | NotADirectoryError)


def _answer(error: BaseException) -> tuple[int | None, str]:
    """Return HTTP status and error code of a store's answer, from the error or its cause; (None, "") without them."""
    for err in filter(None, (error, error.__cause__)):
        response = getattr(err, "response", None)
        if isinstance(response, dict):  # botocore
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status, str(response.get("Error", {}).get("Code", ""))
        for name in ("status", "status_code", "code"):  # aiohttp, azure, gcsfs
            if isinstance(status := getattr(err, name, None), int):
                return status, str(getattr(err, "error_code", None) or "")
    return None, ""


def network_errors(*more: type[BaseException]) -> tuple[type[BaseException], ...]:
    """Return the errors that file systems raise: OSError, those of the loaded network libraries, and `more`."""
    loaded = (getattr(sys.modules.get(module), name, None) for module, name in _NETWORK)
    return (*more, OSError, *(error for error in loaded if error is not None))


def is_missing(err: BaseException) -> bool:
    """Return whether trying again cannot help: the file is not there, is forbidden or is not a file."""
    status = getattr(err, "status", None)  # aiohttp
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 429)
    if type(err).__name__ == "ParamValidationError":  # botocore: an address that no store can have
        return True
    return isinstance(err, _MISSING) or (isinstance(err, OSError) and err.errno in _MISSING_ERRNO)


def one_line(err: BaseException) -> str:
    """Return what an error says in one line of at most 300 characters, without secrets."""
    text = (isinstance(err, OSError) and err.strerror) or str(err) or type(err).__name__
    return public(" ".join(text.split()))[:300]


def _open(uri: str) -> tuple[Any, str]:
    try:
        return open_fs(uri)
    except ConfigError as err:  # a URL in a manifest: only this recording is concerned
        raise BadRecording("missing_file", str(err).removeprefix("source.uri: ")) from None


def _first(fs: Any, path: str, size: int) -> tuple[bytes, str]:
    """Return at most the first `size` bytes of a file, and its version if the store says it in the same answer.

    b"" where the store answers that the file has no bytes.
    """
    try:
        return _part(fs, path, 0, size)
    except network_errors() as err:
        if _answer(err)[0] != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return b"", ""


def _part(fs: Any, path: str, start: int, end: int) -> tuple[bytes, str]:
    """Return the bytes from start to end of a file, and its version if the store says it in the same answer."""
    if not is_s3(fs):
        return fs.cat_file(path, start=start, end=end), ""
    bucket, key, _ = fs.split_path(path)

    async def fetch() -> tuple[bytes, str]:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")
        async with answer["Body"] as body:
            return await body.read(), version_of({"ETag": answer.get("ETag")})

    return cast(tuple[bytes, str], sync(fs.loop, fetch))


def _size(fs: Any, path: str, uri: str) -> int:
    info = fs.info(path)
    if info.get("type") != "file":
        raise BadRecording("missing_file", f"{uri}: not a file")
    return int(info.get("size") or 0)
