"""The bytes of an archive for reading its headers: ranges of a plain file, or a gzip stream unpacked forwards."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

from pipeline.schemas import BadRecording
from pipeline.sources.access import remote

NEAR_BYTES = 1 << 20  # members closer than this are fetched together: below it a request costs more than the bytes
FAR_BYTES = 16 << 10  # what is fetched at a header that is far from the last one
CHUNK_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 64 << 30  # of one gzip stream


class Ranges:
    """A plain file of `size` bytes. Local: an open file; remote: one block, as large as the members lie close."""

    def __init__(self, uri: str, size: int) -> None:
        self.uri, self.size = uri, size
        fs, _ = remote.open_fs(uri)
        self._file: BinaryIO | None = remote.open_stream(uri) if remote.is_local(fs) else None
        self._start, self._block = 0, b""

    def read(self, start: int, length: int) -> bytes:
        """Bytes start..start+length, fewer only where the file ends. Raises as `remote.read_range`."""
        if self._file is not None:
            self._file.seek(start)
            return self._file.read(length)
        if not self._start <= start <= start + length <= self._start + len(self._block):
            near = start - self._start - len(self._block) < NEAR_BYTES
            end = min(self.size, start + max(length, NEAR_BYTES if near else FAR_BYTES))
            self._block, self._start = remote.read_range(self.uri, start, end), start
        return self._block[start - self._start : start - self._start + length]

    def reaches(self, end: int) -> bool:
        return end <= self.size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Gunzip:
    """A gzip file as its unpacked bytes, read only forwards: memory is one chunk and what is asked for."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.at = 0  # of the next unpacked byte
        self._packed = remote.open_stream(uri)
        self._unpacker = zlib.decompressobj(wbits=31)
        self._ahead = b""  # unpacked, not yet read
        self._input = b""  # packed, not yet unpacked

    def read(self, start: int, length: int) -> bytes:
        """Unpacked bytes start..start+length; `start` must not lie behind. Fewer only where the stream ends or is cut.

        Raises BadRecording: "corrupt_archive" where it is no gzip, "too_large" beyond 64 GiB, and as
        `remote.read_range`.
        """
        if start < self.at:
            raise ValueError(f"a gzip stream is read forwards: {start} lies before {self.at}")
        if start + length > MAX_UNPACKED_BYTES:
            raise BadRecording("too_large", f"{self.uri}: unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        while self.at < start:
            skipped = self._take(min(start - self.at, CHUNK_BYTES))
            if not skipped:
                return b""
        read = io.BytesIO()  # not parts to be joined: half a gigabyte would be there twice
        while length:
            part = self._take(length)
            if not part:
                break
            length -= read.write(part)
        return read.getvalue()

    def reaches(self, end: int) -> bool:
        """Whether the stream has so many bytes; reading goes on from there."""
        return end <= self.at or len(self.read(end - 1, 1)) == 1

    def close(self) -> None:
        self._packed.close()

    def _take(self, limit: int) -> bytes:
        """Between 1 and `limit` bytes; none at the end."""
        while not self._ahead:
            if self._unpacker.eof:  # gzip files may follow one another, with zeros after them
                self._input = self._unpacker.unused_data.lstrip(b"\0")
                self._unpacker = zlib.decompressobj(wbits=31)
            self._input = self._input or self._packed.read(CHUNK_BYTES)
            if not self._input:
                return b""
            try:
                self._ahead = self._unpacker.decompress(self._input, CHUNK_BYTES)
            except zlib.error as err:
                raise BadRecording("corrupt_archive", f"{self.uri}: near byte {self.at} unpacked: {err}") from None
            self._input = self._unpacker.unconsumed_tail
        taken, self._ahead = self._ahead[:limit], self._ahead[limit:]
        self.at += len(taken)
        return taken
