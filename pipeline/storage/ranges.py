"""Seekable files whose content is fetched by range, for sources and output."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, BinaryIO, cast

from pipeline.storage.background import workers

AHEAD_BYTES = 4 * 2**20  # a buffered reader fetches at least so much at once
WAITING_BYTES = 64 * 2**20  # most bytes that are fetched ahead and wait
REQUEST_BYTES = 16 * 2**20  # most bytes of one request: a retry repeats no more, and a slow network is not timed out


class Ranges(io.RawIOBase):
    """A file of `size` bytes. read: returns the bytes from start to end, fewer if the content ends before.

    The first range is kept, AHEAD_BYTES of a buffered file: whoever finds out what a file is comes back to it.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._position = read, size, 0
        self._head = b""
        self._ahead: _RangesAhead | None = None

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
        data = self._head[self._position : self._position + wanted]
        if not data:
            read = self._ahead.read if self._ahead else self._read
            data = read(self._position, self._position + wanted)
        if self._position == 0 and len(data) > len(self._head):
            self._head = data
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        """Return all bytes from the position on, in large requests: `RawIOBase` would ask for 8 KiB each time."""
        pieces = []
        while piece := self.read(REQUEST_BYTES):
            pieces.append(piece)
        return b"".join(pieces)

    def read_ahead(self, ranges: int, end: int | None = None) -> None:
        """From now on fetch up to `ranges` ranges that follow, where one range has followed another; one at the start.

        end: bytes behind it are not wanted. None: all are.
        """
        self._ahead = _RangesAhead(self._read, min(self._size, end or self._size), ranges)

    def close(self) -> None:
        """Forget the ranges that are still under way."""
        if self._ahead:
            self._ahead.forget()
        super().close()


class _RangesAhead:
    """Ranges of a file with `end` bytes, up to `most` of them fetched before they are asked for."""

    def __init__(self, read: Callable[[int, int], bytes], end: int, most: int) -> None:
        self._read, self._end, self._most = read, end, most
        self._before = -1  # where the range ends that was asked for last
        self._coming: dict[tuple[int, int], Future[bytes | None]] = {}

    def read(self, start: int, end: int) -> bytes:
        """The bytes of a range. What could not be fetched ahead is asked for again."""
        future = self._coming.pop((start, end), None)
        if start != self._before or future is None:
            self.forget()
        length, wanted = end - start, self._most if start == self._before else int(start == 0)
        if wanted:
            for first in range(end, min(self._end, end + min(wanted * length, WAITING_BYTES)), length):
                place = first, min(self._end, first + length)
                if place not in self._coming:
                    self._coming[place] = workers(self._most).submit(partial(self._fetched, *place))
        self._before = end
        data = future.result() if future else None
        return self._read(start, end) if data is None else data

    def forget(self) -> None:
        """Drop what was fetched, and what is not yet."""
        for future in self._coming.values():
            future.cancel()
        self._coming.clear()

    def _fetched(self, start: int, end: int) -> bytes | None:
        try:
            return self._read(start, end)
        except Exception:  # noqa: BLE001 whoever asks for it gets the error
            return None


class Slice(Ranges):
    """`size` bytes of another file from `offset` on. Closing it closes the other file."""

    def __init__(self, whole: BinaryIO, offset: int, size: int) -> None:
        def read(start: int, end: int) -> bytes:
            whole.seek(offset + start)
            return whole.read(end - start)

        super().__init__(read, size)
        self.whole, self._end = whole, offset + size

    def read_ahead(self, ranges: int, end: int | None = None) -> None:
        """Do so in the whole file, up to the end of the slice."""
        read_ahead(self.whole, ranges, self._end if end is None else min(self._end, self._end - self._size + end))

    def close(self) -> None:
        self.whole.close()
        super().close()


def buffered(raw: Ranges, ahead_bytes: int | None = None) -> BinaryIO:
    """Return `raw` with a buffer of `ahead_bytes`, AHEAD_BYTES by default."""
    return cast(BinaryIO, io.BufferedReader(raw, ahead_bytes or AHEAD_BYTES))


def read_ahead(file: BinaryIO, ranges: int, end: int | None = None) -> None:
    """Let a file that `buffered` returned fetch up to `ranges` of its ranges ahead. Other files stay as they are."""
    if isinstance(raw := getattr(file, "raw", None), Ranges):
        raw.read_ahead(ranges, end)
