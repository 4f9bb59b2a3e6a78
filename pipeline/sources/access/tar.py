"""The headers of a tar archive, one after the other, also of a damaged one. Nothing is ever unpacked to disk."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.schemas import BadRecording

BLOCK = tarfile.BLOCKSIZE  # 512 bytes
NAME_BYTES = tarfile.LENGTH_NAME  # 100 in a header; longer names, and names that are not ASCII, may stand elsewhere
MAX_HEADER_BYTES = 1 << 20  # limit of a long name, and of the pax records of one member
MAX_PADDING_BYTES = 1 << 20  # zeros that may follow a member; if there are more, the archive is corrupt
_DATA_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINK_TYPES = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_EMPTY_TYPES = (*_LINK_TYPES, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_ASIDE_TYPES = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)  # say something about the next member that we do not use
_DUMP_TYPES = (b"D", b"V", b"M", b"N")  # GNU's folder listings, labels and parts of other volumes: not files
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]{1,1000})=")


class ArchiveBytes(Protocol):
    """The bytes of an archive. They are read in ascending order."""

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from byte `start` on; fewer only at the end of the archive."""

    def reaches(self, end: int) -> bool:
        """Return whether the archive has at least `end` bytes."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive.

    offset, size: where its data is, in bytes. problem: (reason of schemas.REASONS, detail). data: its content, if
    `walk` was to keep it. A member without a name stands for the rest of the archive, which cannot be read; it is the
    last one.
    """

    name: str
    offset: int = 0
    size: int = 0
    problem: tuple[str, str] | None = None
    data: bytes | None = None


def name_and_size(block: bytes) -> tuple[str, int] | None:
    """Return name and size from a header block, as far as they fit into it; None if it is not a header."""
    try:
        name, _, size = _header(block)
        return name, size
    except (tarfile.HeaderError, ValueError, OverflowError):
        return None


class _DamageError(Exception):
    """The rest of the archive cannot be read. Arguments: reason, detail."""


# A header: the byte at which it begins, its block, then name, type and size. A plain tuple: there are millions.
_Header = tuple[int, bytes, str, bytes, int]


def walk(data: ArchiveBytes, keep: Callable[[str, int], bool] = lambda _name, _size: False) -> Iterator[Member]:
    r"""Yield the files and links of an archive in order, without the folders. No content of the archive makes it raise.

    keep: called with name and size of a file, returns whether to read its data too: a stream cannot go back to it.

    Long names (GNU and pax) are resolved. Bytes of a name that are not UTF-8 are written as \xff. Blocks of zeros
    between concatenated archives are skipped.
    """
    try:
        yield from _walk(data, keep)
    except _DamageError as damage:
        reason, detail = damage.args
        yield Member("", problem=(reason, detail))
    except BadRecording as err:
        yield Member("", problem=(err.reason, err.detail))


def _walk(data: ArchiveBytes, keep: Callable[[str, int], bool]) -> Iterator[Member]:
    end = 0  # of what was read
    extra: dict[str, str] = {}  # long name, size and such for the next member
    while header := _next_header(data, end, is_announced=bool(extra)):
        at, _, _, kind, declared = header
        start, size = at + BLOCK, _size(declared, at)
        if kind == tarfile.GNUTYPE_LONGNAME:
            extra["path"] = _payload(data, start, size).partition(b"\0")[0].decode("utf-8", "backslashreplace")
        elif kind in _PAX_TYPES:
            extra |= _pax(_payload(data, start, size), at)
        elif kind in _DUMP_TYPES:
            extra = {}
        elif kind not in _ASIDE_TYPES:
            member = _member(data, header, extra, keep)
            start, size, extra = member.offset, member.size, {}
            is_folder = kind == tarfile.DIRTYPE or (kind == tarfile.AREGTYPE and member.name.endswith("/"))
            is_listed = bool(member.name) and not is_folder
            if is_listed:
                yield member
            if member.problem and member.problem[0] == "truncated_archive":
                if not is_listed:
                    raise _DamageError(*member.problem)
                return
        end = start + -(-size // BLOCK) * BLOCK


def _next_header(data: ArchiveBytes, start: int, *, is_announced: bool) -> _Header | None:
    """Return the first header from byte `start` on, after any blocks of zeros; None at the end of the archive.

    is_announced: a long name or pax records came before, so the header must follow.
    """
    at = start
    while not any(block := data.read(at, BLOCK)) and len(block) == BLOCK:
        at += BLOCK
        if at - start > MAX_PADDING_BYTES and data.reaches(at + BLOCK):
            raise _DamageError("corrupt_archive", f"zeros from byte {start} on")
    if len(block) < BLOCK:
        if at > start and not is_announced:
            return None
        detail = f"ends inside the header at byte {at}" if block else f"ends at byte {at} without an end mark"
        raise _DamageError("truncated_archive", detail if at or block else "zero bytes")
    try:
        return (at, block, *_header(block))
    except (tarfile.HeaderError, ValueError, OverflowError) as err:
        if at - start > BLOCK and start > 0:
            return None  # the end mark, and after it something that is not a tar archive
        raise _DamageError("corrupt_archive", f"no header at byte {at}: {err}") from None


def _member(data: ArchiveBytes, header: _Header, extra: dict[str, str], keep: Callable[[str, int], bool]) -> Member:
    """Return the member of a header. extra: what long names and pax records said about it."""
    at, block, name, kind, size = header
    start = at + BLOCK
    if kind == tarfile.GNUTYPE_SPARSE:
        start = _after_sparse_map(data, block, start)
        extra = extra | {"GNU.sparse.map": ""}
    if extra:
        name = extra.get("GNU.sparse.name") or extra.get("path") or name
    if kind in _EMPTY_TYPES:
        size = 0
    elif "size" in extra:
        size = _size(extra["size"], at)
    content = data.read(start, size) if size and keep(name, size) else None
    return Member(name, start, size, _problem(kind, extra, data, start, size), content)


def _problem(kind: bytes, extra: dict[str, str], data: ArchiveBytes, start: int, size: int) -> tuple[str, str] | None:
    if kind in _LINK_TYPES:
        return "unsafe_name", "a link"
    if kind in _EMPTY_TYPES and kind != tarfile.DIRTYPE:
        return "unsafe_name", "a device or pipe"
    if size and not data.reaches(start + size):
        return "truncated_archive", f"the archive ends before the {size} bytes from byte {start} on"
    if any(key.startswith("GNU.sparse.") for key in extra):
        return "corrupt_archive", "a sparse member cannot be read: store it without holes"
    return None


def _header(block: bytes) -> tuple[str, bytes, int]:
    """Return name, type and size. Raises tarfile.HeaderError or ValueError if the checksum or a number is wrong.

    TarInfo.frombuf takes three times as long, and it fails on damage in fields that we do not use. In GNU's format,
    times may stand where ustar has the first part of a long name.
    """
    checksum = tarfile.nti(block[148:156])  # type: ignore[attr-defined]
    summed = block[:148] + b" " * 8 + block[156:]
    if checksum != sum(summed) and checksum != sum(summed) - 256 * sum(byte > 127 for byte in summed):
        raise tarfile.HeaderError("bad checksum")
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    if prefix and block[257:265] != tarfile.GNU_MAGIC:
        name = prefix + b"/" + name
    return name.decode("utf-8", "backslashreplace"), block[156:157], tarfile.nti(block[124:136])  # type: ignore[attr-defined]


def _after_sparse_map(data: ArchiveBytes, block: bytes, start: int) -> int:
    """Return where the data of an old GNU sparse member begins: after the blocks that continue its map."""
    more = block[482]
    while more:
        block = data.read(start, BLOCK)
        if len(block) < BLOCK:
            raise _DamageError("truncated_archive", f"ends inside the header at byte {start}")
        more = block[504]
        start += BLOCK
    return start


def _payload(data: ArchiveBytes, start: int, size: int) -> bytes:
    """Return the content of a long name or of pax records."""
    if size > MAX_HEADER_BYTES:
        raise _DamageError("corrupt_archive", f"a name of {size} bytes at byte {start} is too long")
    payload = data.read(start, size)
    if len(payload) < size:
        raise _DamageError("truncated_archive", f"ends inside the header at byte {start}")
    return payload


def _pax(payload: bytes, at: int) -> dict[str, str]:
    r"""Return the records "LENGTH key=value\n". Source: POSIX pax extended headers."""
    records = {}
    payload = payload.rstrip(b"\0")
    start = 0
    while start < len(payload):
        record = _PAX_RECORD.match(payload, start)
        end = start + int(record[1]) if record else 0
        if record is None or end <= record.end() or payload[end - 1 : end] != b"\n":
            raise _DamageError("corrupt_archive", f"damaged pax records at byte {at}")
        key, value = record[2], payload[record.end() : end - 1]
        records[key.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
        start = end
    return records


def _size(value: int | str, at: int) -> int:
    size = int(value) if isinstance(value, int) or re.fullmatch(r"[0-9]{1,18}", value) else -1
    if not 0 <= size < 1 << 62:
        raise _DamageError("corrupt_archive", f"not a size at byte {at}: {value}")
    return size
