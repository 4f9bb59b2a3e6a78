"""Seekable files whose content is fetched by range, for sources and output."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

AHEAD_BYTES = 4 * 2**20  # a buffered reader fetches at least so much at once
REQUEST_BYTES = 16 * 2**20  # most bytes of one request: a retry repeats no more, and a slow network is not timed out


class Ranges(io.RawIOBase):
    """A file of `size` bytes. read: returns the bytes from start to end, fewer if the content ends before."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position, REQUEST_BYTES)
        if wanted <= 0:
            return 0
        data = self._read(self._position, self._position + wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        """Return all bytes from the position on, in large requests: `RawIOBase` would ask for 8 KiB each time."""
        pieces = []
        while piece := self.read(REQUEST_BYTES):
            pieces.append(piece)
        return b"".join(pieces)


class Slice(Ranges):
    """`size` bytes of another file from `offset` on. Closing it closes the other file."""

    def __init__(self, whole: BinaryIO, offset: int, size: int) -> None:
        def read(start: int, end: int) -> bytes:
            whole.seek(offset + start)
            return whole.read(end - start)

        super().__init__(read, size)
        self._whole = whole

    def close(self) -> None:
        self._whole.close()
        super().close()


def buffered(raw: Ranges, ahead_bytes: int | None = None) -> BinaryIO:
    """Return `raw` with a buffer of `ahead_bytes`, AHEAD_BYTES by default."""
    return cast(BinaryIO, io.BufferedReader(raw, ahead_bytes or AHEAD_BYTES))
