"""Audio and texts that are there twice. What is remembered is a few bytes of each, never audio or text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import hexdigits
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH

from pipeline.calibration.samples import value_of
from pipeline.config import ConfigError
from pipeline.labels.splits import SIZE, stable_hash
from pipeline.planning.plan import plan_names, read_columns
from pipeline.storage.base import Storage

PERMUTATIONS = 64
GRAM = 3  # words
SHORTEST = 8  # words: people say shorter ones again and again
_PLACE = ("source_uri", "source_member", "offset", "size", "version", "start_ms", "end_ms", "channel")


def shared_audio(storage: Storage, hash_column: str | None) -> dict[bytes, bytes]:
    """Of all recordings that have their audio in common with others what stands for it, by `stable_hash` of the id.

    hash_column: key of the metadata with a hash of the audio. Where it is missing, recordings are equal that are the
    same range of the same object, or of an object with the same ETag and size; the latest plan counts. Memory: 16 bytes
    for each recording, and a small entry for each that is returned. Raises ConfigError if no recording has the key.
    """
    pairs = np.fromiter(_pairs(storage, hash_column), f"S{SIZE},S{SIZE}")
    _, latest = np.unique(pairs["f0"][::-1], return_index=True)  # a later round has a recording again
    pairs = pairs[::-1][latest]
    _, audio, count = np.unique(pairs["f1"], return_inverse=True, return_counts=True)
    return {name.ljust(SIZE, b"\0"): key for name, key in pairs[count[audio] > 1].tolist()}


def _pairs(storage: Storage, hash_column: str | None) -> Iterator[tuple[bytes, bytes]]:
    """Of each recording that can be read a hash of its id, and one that stands for its audio."""
    columns = ["recording_id", "problem", *_PLACE, *(["metadata"] if hash_column else [])]
    is_hashed = hash_column is None
    for plan in plan_names(storage):
        for table in read_columns(storage, plan, columns):
            for row in table.to_pylist():
                if row["problem"] is None:
                    known = value_of(row.get("metadata"), hash_column)
                    is_hashed |= known is not None
                    yield stable_hash(row["recording_id"]), _key(row, known)
    if not is_hashed:
        raise ConfigError(
            f"filters.audio_hash_column: no recording of {storage.uri} has {hash_column!r} in the metadata of the "
            "plan, which has none of files beside the audio in archives"
        )


def _key(row: dict[str, Any], known: str | None) -> bytes:
    """What stands for the audio of a row of the plan. known: a hash of it."""
    of_range = (row["start_ms"], row["end_ms"], row["channel"])
    if known is not None:
        return stable_hash("hash", known, *of_range)
    if _is_etag(row["version"]) and row["offset"] is None and row["source_member"] is None:
        return stable_hash("etag", row["version"], row["size"], *of_range)
    return stable_hash("place", row["source_uri"], row["source_member"], row["offset"], *of_range)


def _is_etag(version: str) -> bool:
    """Whether it is the MD5 of an object, as stores give it for one that came in a single request."""
    return len(version) == 32 and set(version.lower()) <= set(hexdigits)


class TextDuplicates:
    """The texts of kept labels. Memory: 1.3 KB for each text of SHORTEST words or more."""

    def __init__(self, similarity: float) -> None:
        self._known = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS)
        self._count = 0

    def is_known(self, text: MinHash | None) -> bool:
        """Whether one that was `add`ed is nearly the same. text: its `signature`."""
        return text is not None and bool(self._known.query(text))

    def add(self, text: MinHash | None) -> None:
        """Remember a text by its `signature`."""
        if text is not None:
            self._known.insert(self._count, text, check_duplication=False)
            self._count += 1


def signature(words: Sequence[str]) -> MinHash | None:
    """What is compared of a text; None of one that is shorter than SHORTEST."""
    if len(words) < SHORTEST:
        return None
    made = MinHash(num_perm=PERMUTATIONS, seed=1)
    made.update_batch([" ".join(words[at : at + GRAM]).encode() for at in range(len(words) - GRAM + 1)])
    return made
