"""A set of recording ids that takes 20 to 60 bytes for each id, independent of its length; a large one is on disk."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from pathlib import Path

from pipeline.storage.errors import naming

MAX_LOAD = 0.8  # fraction of the slots in use; above it the number of slots doubles
MEMORY_WORDS = 1 << 23  # 64 MB; a larger table is a file that is mapped into memory


class IdSet:
    """A set of ids that stores their 128-bit digests: two different ids have the same one with a probability of 2^-128.

    It is a hash table with open addressing. Slot k is the two words 2k and 2k + 1, which are 0 while the slot is free.
    25 million ids take 0.5 GB, and 0.8 GB at the moment when the table doubles. A Python set would take 2 GB. Beyond
    three million ids they are in the folder for temporary files: the system keeps of them in memory what it has room
    for. Raises OSError where that folder is full.
    """

    def __init__(self) -> None:
        self._words = _zeros(2048)
        self._count = 0

    def add(self, text: str) -> bool:
        """Add an id. Returns False if it is in the set already."""
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if self._count >= MAX_LOAD * len(self._words) / 2:
            self._double()
        return self._put(int.from_bytes(digest[:8]) or 1, int.from_bytes(digest[8:]))

    def __len__(self) -> int:
        return self._count

    def _put(self, first: int, second: int) -> bool:
        words, mask = self._words, len(self._words) - 2
        at = (first << 1) & mask
        while words[at]:
            if words[at] == first and words[at + 1] == second:
                return False
            at = (at + 2) & mask
        words[at], words[at + 1] = first, second
        self._count += 1
        return True

    def _double(self) -> None:
        old, self._words = self._words, _zeros(2 * len(self._words))
        self._count = 0
        for at in range(0, len(old), 2):
            if old[at]:
                self._put(old[at], old[at + 1])


def _zeros(words: int) -> memoryview:
    """So many 64-bit words: of memory, or of a file without a name, whose room is taken on the disk at once."""
    if words <= MEMORY_WORDS:
        return memoryview(bytearray(8 * words)).cast("Q")
    with naming(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, 8 * words)
        return memoryview(mmap.mmap(file.fileno(), 8 * words)).cast("Q")
