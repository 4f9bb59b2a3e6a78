"""The bytes of an archive: ranges of a plain file, or a gzip stream that is unpacked from its beginning to its end."""

from __future__ import annotations

import io
import zlib
from functools import lru_cache
from typing import BinaryIO

from pipeline.schemas import BadRecording
from pipeline.sources.access import remote

ENDINGS = (".tar", ".tar.gz", ".tgz")
NEAR_BYTES = 1 << 20  # members closer than this are fetched together: a request takes longer than these bytes
FAR_BYTES = 16 << 10  # fetched at a header that is further away from the one before it
CHUNK_BYTES = 1 << 20  # packed or unpacked at once
MAX_UNPACKED_BYTES = 64 << 30  # limit of one gzip stream


class PlainArchive:
    """An archive that is not compressed, `size` bytes long.

    Local: an open file. Remote: one block in memory, larger where the members lie close together.
    """

    def __init__(self, uri: str, size: int) -> None:
        self.uri, self.size = uri, size
        self.consumed = 0  # bytes of the file before the place that was read last
        fs, _ = remote.open_fs(uri)
        self._file: BinaryIO | None = remote.open_stream(uri) if remote.is_local(fs) else None
        self._start, self._block = 0, b""

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from byte `start` on, fewer only at the end. Raises as `remote.read_range`."""
        self.consumed = start
        if self._file is not None:
            self._file.seek(start)
            return self._file.read(length)
        if not self._start <= start <= start + length <= self._start + len(self._block):
            is_near = start - self._start - len(self._block) < NEAR_BYTES
            end = min(self.size, start + max(length, NEAR_BYTES if is_near else FAR_BYTES))
            self._block, self._start = remote.read_range(self.uri, start, end), start
        return self._block[start - self._start : start - self._start + length]

    @property
    def end(self) -> int:
        """How many bytes the archive has."""
        return self.size

    def reaches(self, end: int) -> bool:
        """Return whether the archive has at least `end` bytes."""
        return end <= self.size

    def close(self) -> None:
        """Close the local file."""
        if self._file is not None:
            self._file.close()


class GzipArchive:
    """An archive in gzip, read as its unpacked bytes and only forwards. Memory: one chunk and what is asked for."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.at = 0  # number of the next unpacked byte
        self._packed = remote.open_stream(uri)
        self._unpacker = zlib.decompressobj(wbits=31)
        self._between = False  # behind the end of a gzip file, where another one may follow
        self._ahead = b""  # unpacked and not yet read
        self._input = b""  # packed and not yet unpacked

    def read(self, start: int, length: int) -> bytes:
        """Return `length` unpacked bytes from byte `start` on, fewer only where the stream ends or is cut.

        Raises ValueError if `start` lies before `at`; BadRecording: "corrupt_archive" if it is not gzip, "too_large"
        beyond 64 GiB; and as `remote.read_range`.
        """
        if start < self.at:
            raise ValueError(f"a gzip stream is read forwards: {start} lies before {self.at}")
        if start + length > MAX_UNPACKED_BYTES:
            raise BadRecording("too_large", f"{self.uri}: unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        while self.at < start:
            skipped = self._take(min(start - self.at, CHUNK_BYTES))
            if not skipped:
                return b""
        read = io.BytesIO()  # joining a list of pieces would need twice the memory
        while length:
            piece = self._take(length)
            if not piece:
                break
            length -= read.write(piece)
        return read.getvalue()

    def reaches(self, end: int) -> bool:
        """Return whether the stream has at least `end` unpacked bytes. The next read must start there or later."""
        return end <= self.at or len(self.read(end - 1, 1)) == 1

    @property
    def end(self) -> int:
        """How many unpacked bytes the archive has, once it is read to its end."""
        return self.at

    @property
    def consumed(self) -> int:
        """How many packed bytes were read and unpacked."""
        return self._packed.tell() - len(self._input)

    def close(self) -> None:
        """Close the packed file."""
        self._packed.close()

    def _take(self, limit: int) -> bytes:
        """Return the next bytes, between 1 and `limit` of them; none at the end."""
        while not self._ahead:
            if self._unpacker.eof:
                self._input = self._unpacker.unused_data
                self._unpacker, self._between = zlib.decompressobj(wbits=31), True
            self._input = self._input or self._packed.read(CHUNK_BYTES)
            if not self._input:
                return b""
            if self._between:  # zeros may stand there, as on a tape, and more of them than a chunk has
                self._input = self._input.lstrip(b"\0")
                if not self._input:
                    continue
                self._between = False
            try:
                self._ahead = self._unpacker.decompress(self._input, CHUNK_BYTES)
            except zlib.error as err:
                raise BadRecording("corrupt_archive", f"{self.uri}: near byte {self.at} unpacked: {err}") from None
            self._input = self._unpacker.unconsumed_tail
        taken, self._ahead = self._ahead[:limit], self._ahead[limit:]
        self.at += len(taken)
        return taken


def is_archive(name: str) -> bool:
    """Return whether a file of this name is a tar archive, packed or not."""
    return name.lower().endswith(ENDINGS)


@lru_cache(maxsize=1024)
def is_gzip(uri: str, version: str) -> bool:  # noqa: ARG001 the cache needs the version
    """Return whether this version of the file is packed with gzip, by its first bytes, whatever it is called.

    If they cannot be read, by its extension. uri: may be a chain of URLs. A store is asked once for each archive.
    """
    try:
        head = remote.read_range(uri, 0, 2)
    except BadRecording:
        head = b""
    return head == b"\x1f\x8b" if len(head) == 2 else is_called_gzip(uri)


def is_called_gzip(uri: str) -> bool:
    """Return whether the extension says that a file is packed with gzip. uri: may be a chain of URLs."""
    return uri.partition("::")[0].lower().endswith((".gz", ".tgz"))


def open_archive(uri: str, size: int, version: str) -> PlainArchive | GzipArchive:
    """Open an archive for reading its headers. size: bytes of the file. Raises as `remote.open_stream`."""
    return GzipArchive(uri) if is_gzip(uri, version) else PlainArchive(uri, size)
