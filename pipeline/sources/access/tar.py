"""The headers of a tar archive, one after the other, whatever is wrong with it; no member is ever unpacked to disk."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.schemas import BadRecording

BLOCK = tarfile.BLOCKSIZE  # 512 bytes
NAME_BYTES = tarfile.LENGTH_NAME  # 100, of a header; longer names, and others than ASCII, may stand elsewhere
MAX_HEADER_BYTES = 1 << 20  # of a long name or of pax records
MAX_PADDING_BYTES = 1 << 20  # zeros after which an archive is taken for over (or, if more follows, for corrupt)
_DATA_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINK_TYPES = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_EMPTY_TYPES = (*_LINK_TYPES, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_ASIDE_TYPES = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)  # about the next member, but nothing that is needed
_DUMP_TYPES = (b"D", b"V", b"M", b"N")  # GNU's folder listings, labels and parts of other volumes: no files
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]{1,1000})=")


class Bytes(Protocol):
    """An archive's bytes, asked for in ascending order. read: fewer than asked for only at the end."""

    def read(self, start: int, length: int) -> bytes: ...
    def reaches(self, end: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Member:
    """One entry: `offset` and `size` of its data in bytes.

    `problem` is (reason of schemas.REASONS, detail). A member without a name is the archive itself: what came before it
    is sound, what follows cannot be read; it is the last. `data` is kept on demand only.
    """

    name: str
    offset: int = 0
    size: int = 0
    problem: tuple[str, str] | None = None
    data: bytes | None = None


def name_and_size(block: bytes) -> tuple[str, int] | None:
    """In the header block before a file's data, as far as they fit there; None where it is no header."""
    try:
        name, _, size = _header(block)
        return name, size
    except (tarfile.HeaderError, ValueError, OverflowError):
        return None


class _DamageError(Exception):
    """Reason and detail: the walk ends here."""


def walk(data: Bytes, keep: Callable[[str, int], bool] = lambda _name, _size: False) -> Iterator[Member]:
    """Files and links of an archive (folders are left out), in order. Never raises for what the bytes say.

    keep(name, size): whether to read the data of this file as well (a stream does not come back to it).

    Names: GNU and pax long ones are resolved; bytes that are no UTF-8 are written as \\xff. Zero blocks between
    archives that were concatenated are passed over.
    """
    try:
        yield from _walk(data, keep)
    except _DamageError as damage:
        reason, detail = damage.args
        yield Member("", problem=(reason, detail))
    except BadRecording as err:
        yield Member("", problem=(err.reason, err.detail))


def _walk(data: Bytes, keep: Callable[[str, int], bool]) -> Iterator[Member]:
    at, zeros = 0, 0
    extra: dict[str, str] = {}  # long name, size and such for the next member
    while True:
        block = data.read(at, BLOCK)
        if len(block) < BLOCK:
            if zeros and not extra:
                return
            where = f"ends inside the header at byte {at}" if block else f"ends at byte {at} without an end mark"
            raise _DamageError("truncated_archive", where if at or block else "zero bytes")
        if not any(block):
            zeros += 1
            at += BLOCK
            if zeros * BLOCK > MAX_PADDING_BYTES and data.reaches(at + BLOCK):
                raise _DamageError("corrupt_archive", f"zeros from byte {at - zeros * BLOCK} on")
            continue
        try:
            header_name, kind, header_size = _header(block)
        except (tarfile.HeaderError, ValueError, OverflowError) as err:
            if zeros > 1 and at > zeros * BLOCK:
                return  # the end mark, then something that is none of ours
            raise _DamageError("corrupt_archive", f"no header at byte {at}: {err}") from None
        zeros = 0
        start, size = at + BLOCK, _size(header_size, at)
        if kind == tarfile.GNUTYPE_LONGNAME or kind in _PAX_TYPES:
            payload = _payload(data, start, size)
            if kind in _PAX_TYPES:
                extra |= _pax(payload, at)
            else:
                extra["path"] = payload.partition(b"\0")[0].decode("utf-8", "backslashreplace")
        elif kind in _DUMP_TYPES:
            extra = {}
        elif kind not in _ASIDE_TYPES:
            if kind == tarfile.GNUTYPE_SPARSE:
                start = _behind_sparse_map(data, block, start)
                extra["GNU.sparse.map"] = ""
            if "size" in extra and kind not in _EMPTY_TYPES:
                size = _size(extra["size"], at)
            size = 0 if kind in _EMPTY_TYPES else size
            name = extra.get("GNU.sparse.name") or extra.get("path") or header_name
            is_folder = kind == tarfile.DIRTYPE or (kind == tarfile.AREGTYPE and name.endswith("/"))
            kept = data.read(start, size) if size and keep(name, size) else None
            member = Member(name, start, size, _problem(kind, extra, data, start, size), kept)
            extra = {}
            if not is_folder and name:
                yield member
            if member.problem and member.problem[0] == "truncated_archive":
                if is_folder or not name:
                    raise _DamageError(*member.problem)
                return
        at = start + -(-size // BLOCK) * BLOCK


def _problem(kind: bytes, extra: dict[str, str], data: Bytes, start: int, size: int) -> tuple[str, str] | None:
    if kind in _LINK_TYPES:
        return "unsafe_name", "a link"
    if kind in _EMPTY_TYPES and kind != tarfile.DIRTYPE:
        return "unsafe_name", "a device or pipe"
    if size and not data.reaches(start + size):
        return "truncated_archive", f"{size} bytes from byte {start} on are declared; the archive ends before"
    if any(key.startswith("GNU.sparse.") for key in extra):
        return "corrupt_archive", "a sparse member: store it without holes"
    return None


def _header(block: bytes) -> tuple[str, bytes, int]:
    """Name, type and size. Raises tarfile.HeaderError or ValueError where the checksum or a number is wrong.

    Read here and not by TarInfo.frombuf: a third of the time, and damage in fields that nobody needs is no damage. In
    GNU's own format times may stand where ustar has the start of a long name.
    """
    checksum = tarfile.nti(block[148:156])  # type: ignore[attr-defined]
    summed = block[:148] + b" " * 8 + block[156:]
    if checksum != sum(summed) and checksum != sum(summed) - 256 * sum(byte > 127 for byte in summed):
        raise tarfile.HeaderError("bad checksum")
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    if prefix and block[257:265] != tarfile.GNU_MAGIC:
        name = prefix + b"/" + name
    return name.decode("utf-8", "backslashreplace"), block[156:157], tarfile.nti(block[124:136])  # type: ignore[attr-defined]


def _behind_sparse_map(data: Bytes, block: bytes, start: int) -> int:
    """Where the data of an old GNU sparse member begins: behind the blocks that go on with its map."""
    more = block[482]
    while more:
        block = data.read(start, BLOCK)
        if len(block) < BLOCK:
            raise _DamageError("truncated_archive", f"ends inside the header at byte {start}")
        more = block[504]
        start += BLOCK
    return start


def _payload(data: Bytes, start: int, size: int) -> bytes:
    if size > MAX_HEADER_BYTES:
        raise _DamageError("corrupt_archive", f"a name of {size} bytes at byte {start}")
    payload = data.read(start, size)
    if len(payload) < size:
        raise _DamageError("truncated_archive", f"ends inside the header at byte {start}")
    return payload


def _pax(payload: bytes, at: int) -> dict[str, str]:
    """Records "LENGTH key=value\\n". Source: POSIX pax extended headers."""
    records = {}
    payload = payload.rstrip(b"\0")
    start = 0
    while start < len(payload):
        found = _PAX_RECORD.match(payload, start)
        end = start + int(found[1]) if found else 0
        if found is None or end <= found.end() or payload[end - 1 : end] != b"\n":
            raise _DamageError("corrupt_archive", f"no pax records at byte {at}")
        key, value = found[2], payload[found.end() : end - 1]
        records[key.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
        start = end
    return records


def _size(value: int | str, at: int) -> int:
    size = int(value) if isinstance(value, int) or re.fullmatch(r"[0-9]{1,18}", value) else -1
    if not 0 <= size < 1 << 62:
        raise _DamageError("corrupt_archive", f"no size at byte {at}: {value}")
    return size
