"""The files that `source.uri` names, listed lazily: one file, a whole folder or a glob, on any file system."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from stat import S_ISDIR, S_ISREG
from typing import Any, Protocol

from pipeline.config import ConfigError, RunConfig
from pipeline.schemas import BadRecording
from pipeline.sources.access import bucket, names, remote
from pipeline.storage.errors import failure, storage_error


@dataclass(frozen=True, slots=True)
class File:
    """A file of the source.

    name: its path below the root, which is the part of source.uri before a wildcard; unique in a listing. size: bytes,
    0 if unknown. version: changes when the file is written again. named: source.uri is this file, so its extension
    does not matter.
    """

    uri: str
    name: str
    size: int
    version: str
    named: bool = False


class Planned(Protocol):
    """What an earlier plan has of a source. Objects of it that did not change need not be opened again."""

    def has(self, file: File) -> bool:
        """Whether the plan has all recordings of this archive or table, in this version of it."""

    def has_elsewhere(self, recording_id: str, uri: str) -> bool:
        """Whether the plan has this id for a recording of another object than the one at `uri`."""


def list_files(uri: str) -> Iterator[File]:
    """Yield the files in a stable order, folder by folder. Hidden files are left out, links are followed.

    Memory: one local folder, or some pages of an object store (bucket.py). Raises ConfigError if nothing is there, if
    nothing matches or, perhaps late, if a folder cannot be listed; StorageError if the store or the mount is out of
    reach.
    """
    fs, path = remote.open_fs(uri)
    try:
        yield from _list(fs, path, uri)
    except remote.network_errors(ValueError, LookupError) as err:
        raise remote.listing_failure(err, uri) from None
    except BadRecording as err:
        raise ConfigError(f"source.uri: {err.detail}") from None


def list_folder(uri: str) -> tuple[list[File], list[str]] | None:
    """Return what a folder contains, in order of names: its files, and the URIs of its folders. Nothing hidden.

    Returns None if `uri` is not a folder. Raises ConfigError if it cannot be listed.
    """
    fs, path = remote.open_fs(uri)
    try:
        info = _info(fs, path)
        if info is None or info["type"] != "directory":
            return None
        entries = sorted(entry for entry in _entries(fs, path, uri) if not entry[0].rpartition("/")[2].startswith("."))
    except remote.network_errors(ValueError, LookupError) as err:
        raise remote.listing_failure(err, uri) from None
    except BadRecording as err:
        raise ConfigError(f"source.uri: {err.detail}") from None
    files = [
        File(remote.uri_of(fs, place, uri), place.rpartition("/")[2], size, version)
        for place, is_folder, size, version in entries
        if not is_folder
    ]
    return files, [remote.uri_of(fs, place, uri) for place, is_folder, _, _ in entries if is_folder]


def find_file(uri: str) -> File | None:
    """Return the file at `uri`, None if there is none or it cannot be asked for."""
    try:
        fs, path = remote.open_fs(uri)
        info = remote.ask(lambda: _info(fs, path), uri)
    except BadRecording:
        return None
    return _named(fs, path, info, uri) if info and info["type"] == "file" else None


def find_files(folder: str, stem: str, extensions: Sequence[str]) -> list[File]:
    """Return the files of a folder with this stem and one of the extensions, in the order of the extensions.

    folder: with a slash at its end. On S3 it is one request, where few other files begin with the stem. Raises
    StorageError if the store does not answer or refuses.
    """
    wanted = [f"{stem}.{extension}" for extension in extensions]
    fs, beginning = remote.open_fs(f"{folder}{stem}.")
    if not remote.is_s3(fs):
        return [file for name in wanted if (file := find_file(f"{folder}{name}")) is not None]
    path = beginning.removesuffix(f"{stem}.")
    try:
        listed = list(_walk_s3(fs, beginning, folder, flat=True))
    except BadRecording:  # no such bucket or object
        return []
    found = [
        File(remote.uri_of(fs, place, folder), place.removeprefix(path), size, version, named=True)
        for place, size, version in listed
        if place.removeprefix(path) in wanted
    ]
    return sorted(found, key=lambda file: wanted.index(file.name))


def absolute(uri: str) -> str:
    """Return source.uri as it is for every process: a local path becomes absolute."""
    fs, path = remote.open_fs(uri)
    return remote.uri_of(fs, path, uri) if remote.is_local(fs) else uri


def with_absolute_source(config: RunConfig) -> RunConfig:
    """The same settings for every process, in whatever folder it works: a local source has its absolute path."""
    if config.source.format == "huggingface":  # it may be a name on the hub
        return config
    source = config.source.model_copy(update={"uri": absolute(config.source.uri)})
    return config.model_copy(update={"source": source})


def check_root(uri: str) -> None:
    """Raise StorageError if the root of source.uri, on a local disk, a mount or a web server, is not there any more.

    The stores of other schemes say themselves whether one object or all of them are out of reach.
    """
    address = uri.rpartition("::")[2]
    if "://" in address and not address.startswith(("file://", "http://", "https://")):
        return
    fs, path = remote.open_fs(address)
    root = names.literal_prefix(path).rpartition("/")[0] or "/" if names.has_magic(path) else path
    address = remote.uri_of(fs, root, address)
    try:
        info = remote.ask(lambda: _info(fs, root), address)
        is_folder = remote.is_local(fs) and info is not None and info["type"] == "directory"
        empty = is_folder and next(os.scandir(root), None) is None
    except (BadRecording, OSError) as err:
        what = err.detail.removeprefix(f"{address}: ") if isinstance(err, BadRecording) else remote.one_line(err)
        raise storage_error(err) or failure(address, what, "gone" if remote.is_local(fs) else "unreachable") from None
    if info is None or empty:
        raise failure(address, "the source is gone" if info is None else "the source is empty", "gone")


def check_version(uri: str, planned: str) -> None:
    """Raise BadRecording("source_changed") if the file at `uri` has another version now than the `planned` one.

    A version "" is unknown, and a file that is gone has none: neither is a change. Costs one request for a remote file.
    """
    if not planned:
        return
    fs, path = remote.open_fs(uri)
    fs.invalidate_cache(path)  # it may remember an earlier listing
    try:
        info = remote.ask(lambda: _info(fs, path), uri)
    except BadRecording:  # it is gone, or may only be read
        return
    now = remote.version_of(info) if info else ""
    if now and now != planned:
        detail = f"{uri}: written again since it was planned (version {planned} then, {now} now)"
        raise BadRecording("source_changed", detail)


def local_size(uri: str) -> tuple[int, str]:
    """Return size in bytes and version of a local file.

    (0, "") for a remote file, and for one that is not there: reading it gives the error.
    """
    if not uri.startswith("/"):
        return 0, ""
    try:
        status = os.stat(uri)  # noqa: PTH116
    except (OSError, ValueError):
        return 0, ""
    if not S_ISREG(status.st_mode):
        return 0, ""
    return status.st_size, remote.version_of({"mtime": status.st_mtime_ns, "size": status.st_size})


def _list(fs: Any, path: str, uri: str) -> Iterator[File]:
    info = _info(fs, path)
    if info is not None:
        if info["type"] not in ("file", "directory"):
            raise ConfigError(f"source.uri: {uri}: neither a file nor a folder")
        return _walk(fs, path, uri) if info["type"] == "directory" else iter([_named(fs, path, info, uri)])
    if not names.has_magic(path):
        raise ConfigError(f"source.uri: {uri}: no such file or folder")
    if not names.has_magic(names.BRACES.sub("", path)):
        return _brace_list(fs, path, uri)
    return _glob(fs, path, uri)


def _brace_list(fs: Any, path: str, uri: str) -> Iterator[File]:
    expanded = dict.fromkeys(names.expand_braces(path))
    root = names.literal_prefix(path).rpartition("/")[0]
    for place in expanded:
        info = _info(fs, place)
        if info is None or info["type"] == "directory":
            raise ConfigError(f"source.uri: {remote.uri_of(fs, place, uri)}: no such file")
        yield _named(fs, place, info, uri, root)


def _glob(fs: Any, path: str, uri: str) -> Iterator[File]:
    literal = names.literal_prefix(path)
    root = literal.rpartition("/")[0]
    matches = names.glob_regex(path).fullmatch
    depth = None if "**" in path else path.count("/") - root.count("/") - 1
    if remote.is_local(fs) and _info(fs, root or "/") is None:
        raise ConfigError(f"source.uri: {uri}: no such file: nothing matches")
    matching = (file for file, full in _walk_below(fs, root or "/", uri, prefix=literal, depth=depth) if matches(full))
    first = next(matching, None)
    if first is None:
        raise ConfigError(f"source.uri: {uri}: no such file: nothing matches")
    return chain([first], matching)


def _walk(fs: Any, root: str, uri: str) -> Iterator[File]:
    return (file for file, _ in _walk_below(fs, root, uri, prefix=f"{root.rstrip('/')}/", depth=None))


def _walk_below(fs: Any, root: str, uri: str, *, prefix: str, depth: int | None) -> Iterator[tuple[File, str]]:
    """Yield each file below `root` with its path on `fs`.

    prefix: the path begins with it. depth: at most so many folders down; None: any number.
    """
    if remote.is_local(fs):
        walked = _walk_local(root, depth)
    elif remote.is_s3(fs):
        walked = _walk_s3(fs, prefix, uri, flat=depth == 0)
    else:
        walked = _walk_any(fs, root, depth)
    for path, size, version in walked:
        name = path.removeprefix(root).lstrip("/")
        if path.startswith(prefix) and not names.is_hidden(name):
            yield File(remote.uri_of(fs, path, uri), name, size, version), path


def _walk_local(root: str, depth: int | None) -> Iterator[tuple[str, int, str]]:
    """Yield path, size and version of a folder's files, then of its folders' files.

    A link to a folder above is not followed.
    """
    stack: list[tuple[str, int, tuple[tuple[int, int], ...]]] = [(root, 0, ())]
    while stack:
        folder, level, above = stack.pop()
        try:
            stat = os.stat(folder)  # noqa: PTH116
            if (stat.st_dev, stat.st_ino) in above:
                continue
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as err:
            raise _unlisted(folder, err) from None
        folders = []
        for entry in entries:
            if _is_folder(entry):
                if not entry.name.startswith("."):
                    folders.append((entry.path, level + 1, (*above, (stat.st_dev, stat.st_ino))))
            elif entry.is_symlink() and not os.path.isfile(entry.path):  # noqa: PTH113
                yield _text(entry.path), 0, ""  # a broken link stands for a recording, which is missing
            elif entry.is_file():
                yield _text(entry.path), *_stat(entry)
        if depth is None or level < depth:
            stack.extend(reversed(folders))


def _unlisted(folder: str, error: OSError) -> Exception:
    """The error of a local folder that was there and cannot be listed."""
    if isinstance(error, FileNotFoundError):
        return failure(_text(folder), "it is gone while the source is listed", "gone")
    return storage_error(error) or ConfigError(f"source.uri: {_text(folder)}: {remote.one_line(error)}")


def _walk_s3(fs: Any, prefix: str, uri: str, *, flat: bool) -> Iterator[tuple[str, int, str]]:
    name = prefix.partition("/")[0]
    return ((f"{name}/{key}", size, version) for key, size, version in bucket.list_objects(fs, prefix, uri, flat=flat))


def _entries(fs: Any, root: str, uri: str) -> Iterator[tuple[str, bool, int, str]]:
    """Yield what a folder contains: path, whether it is a folder, size and version."""
    if remote.is_local(fs):
        yield from _entries_local(root)
    elif remote.is_s3(fs):
        name = root.partition("/")[0]
        for objects, folders in bucket.list_level(fs, f"{root.rstrip('/')}/", uri):
            yield from ((f"{name}/{folder}", True, 0, "") for folder in folders)
            yield from ((f"{name}/{key}", False, size, version) for key, size, version in objects)
    else:
        for info in fs.ls(root, detail=True):
            yield info["name"].rstrip("/"), info["type"] == "directory", info.get("size") or 0, remote.version_of(info)


def _entries_local(root: str) -> Iterator[tuple[str, bool, int, str]]:
    with os.scandir(root) as entries:
        for entry in entries:
            if _is_folder(entry):
                yield _text(entry.path), True, 0, ""
            elif entry.is_file():
                yield _text(entry.path), False, *_stat(entry)


def _walk_any(fs: Any, root: str, depth: int | None) -> Iterator[tuple[str, int, str]]:
    levels = None if depth is None else depth + 1
    for _, _, files in fs.walk(root, maxdepth=levels, detail=True, on_error="raise"):
        for _, info in sorted(files.items()):
            yield info["name"], info.get("size") or 0, remote.version_of(info)


def _named(fs: Any, path: str, info: dict[str, Any], uri: str, root: str | None = None) -> File:
    name = path.rpartition("/")[2] if root is None else path.removeprefix(root).lstrip("/")
    return File(remote.uri_of(fs, path, uri), name, info.get("size") or 0, remote.version_of(info), named=True)


def _info(fs: Any, path: str) -> dict[str, Any] | None:
    """Return type, size and time of what is at `path`; None if nothing is there."""
    try:
        if remote.is_local(fs):
            status = os.stat(path)  # noqa: PTH116
            kind = "directory" if S_ISDIR(status.st_mode) else "file" if S_ISREG(status.st_mode) else "other"
            return {"type": kind, "size": status.st_size, "mtime": status.st_mtime_ns}
        return dict(fs.info(path))
    except (FileNotFoundError, NotADirectoryError) as err:
        if remote.is_absent(err):
            return None
        raise


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _stat(entry: os.DirEntry[str]) -> tuple[int, str]:
    try:
        status = entry.stat()
    except OSError:  # removed after it was listed: reading it gives the error
        return 0, ""
    return status.st_size, remote.version_of({"mtime": status.st_mtime_ns, "size": status.st_size})


def _text(path: str) -> str:
    r"""Return a path that Parquet can store. Bytes that are not UTF-8 become \xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
