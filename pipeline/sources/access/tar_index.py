"""The index of a .tar: a file beside it with what its headers say, so that a listing need not read the archive."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.schemas import REASONS, BadRecording
from pipeline.sources.access import remote
from pipeline.sources.access.listing import File, check_version
from pipeline.sources.access.streams import is_gzip, open_archive
from pipeline.sources.access.tar import Member, walk
from pipeline.storage.errors import StorageError

ENDING = ".idx.json"  # s.tar.idx.json is the index of s.tar
FORMAT = "fullcanvas-tar-index/1"
MAX_BYTES = 1 << 30  # of an index; a million members take about 60 MB

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TarIndex:
    """The members of an archive as `walk` yields them, and how many bytes of it they take."""

    members: list[Member]
    consumed: int


def read_index(file: File) -> TarIndex | None:
    """Return the index of an archive; None without one of this version of the archive.

    Raises StorageError if the store is out of reach.
    """
    if not file.version or "::" in file.uri:
        return None
    uri = f"{file.uri}{ENDING}"
    try:
        content = json.loads(remote.read_range(uri, 0, MAX_BYTES))
        if content["format"] != FORMAT or (content["version"], content["size"]) != (file.version, file.size):
            log.info("%s: not used: the index of another version of the archive", uri)
            return None
        return TarIndex(list(_members(content["members"], file.size)), int(content["consumed"]))
    except BadRecording:
        return None
    except StorageError as err:
        if err.kind == "denied":  # a store may say so of what is not there
            return None
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        log.warning("%s: not used: %s", uri, remote.one_line(err))
        return None


def write_index(file: File) -> bool:
    """Write the index of an archive beside it. Returns False if that has one, can have none, or changes meanwhile.

    A packed archive has none: it is read in one pass anyway. Raises StorageError or ConfigError if the index cannot be
    written.
    """
    if not file.version or "::" in file.uri or is_gzip(file.uri, file.version) or read_index(file):
        return False
    try:
        with contextlib.closing(open_archive(file.uri, file.size, file.version)) as data:
            members = [_row(member) for member in walk(data)]
            consumed = data.consumed
        check_version(file.uri, file.version)
    except BadRecording:  # it cannot be read, or has changed
        return False
    content = {"format": FORMAT, "version": file.version, "size": file.size, "consumed": consumed, "members": members}
    _put(f"{file.uri}{ENDING}", json.dumps(content, separators=(",", ":")).encode())
    return True


def _row(member: Member) -> list[Any]:
    return [member.name, member.offset, member.size, *(member.problem or ())]


def _members(rows: list[list[Any]], size: int) -> Iterator[Member]:
    """The members of an archive of `size` bytes. Raises ValueError or TypeError if a row cannot be true."""
    for name, offset, length, *problem in rows:
        reason, detail = problem or (None, None)
        is_there = problem or 0 <= offset <= offset + length <= size
        if not isinstance(name, str) or not is_there or (problem and reason not in REASONS):
            raise ValueError(f"{name!r:.100} at byte {offset!r:.30}")
        yield Member(name, int(offset), int(length), (reason, str(detail)) if reason else None)


def _put(uri: str, data: bytes) -> None:
    fs, path = remote.open_fs(uri)
    try:
        if remote.is_local(fs):
            new = Path(path).with_name(f".{uuid.uuid4().hex}{ENDING}")
            try:
                new.write_bytes(data)
                os.replace(new, path)  # noqa: PTH105 the path may not be UTF-8
            finally:
                new.unlink(missing_ok=True)
        else:
            fs.pipe_file(path, data)
    except remote.network_errors() as err:
        raise remote.listing_failure(err, uri) from None
