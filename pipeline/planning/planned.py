"""What all plans of an output have, as arrays: 72 bytes for each recording. A new listing is compared with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence, Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.planning.pack import Pointer
from pipeline.planning.plan import read_columns, withdrawn_units
from pipeline.schemas import RecordingRef
from pipeline.sources.access.listing import File
from pipeline.sources.formats import SKIPPING
from pipeline.storage.base import Storage

COLUMNS = ["unit_id", "recording_id", "source_uri", "source_member", "version", "format", "content", "problem"]
KEY_BYTES = 16  # two different ids have the same key with a probability of 2^-128


def key_of(recording_id: str, copy_of: str | None = None) -> bytes:
    """What a recording is found by: a hash of its id; of a duplicate also that of its place `copy_of`."""
    text = recording_id if copy_of is None else f"{recording_id}\0{copy_of}"
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def place_of(uri: str, member: str | None) -> str:
    """The place of a duplicate: two duplicates of an id differ in it."""
    return f"{uri}\0{member or ''}"


def key_of_ref(ref: RecordingRef) -> bytes:
    """The key of a listed recording."""
    is_copy = ref.problem == "duplicate_id"
    return key_of(ref.recording_id, place_of(ref.source_uri, ref.source_member) if is_copy else None)


class PlannedRows:
    """The rows of all plans, in the order of their keys; of equal keys the latest plan comes last.

    keys: KEY_BYTES. content: `content_hash`. unit: id. index: within the unit. uri: hash of the object. object: hash
    of the object and its version. is_copy: a duplicate of another id. live: not in a unit that was withdrawn before it
    was committed. row: number in all plans one after the other. A listing sets seen (the source has it) and same (and
    it has not changed).
    """

    def __init__(self, storage: Storage, names: Sequence[str], committed: Set[str]) -> None:
        """Read the columns of the plans `names`. committed: ids of units."""
        tables = [_arrays(table) for name in names for table in read_columns(storage, name, COLUMNS)]
        whole = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        del tables
        withdrawn = withdrawn_units(storage, names) - committed
        whole["live"] = ~np.isin(whole["unit"], np.array(sorted(withdrawn), "S16"))
        self.row = np.argsort(whole["keys"], kind="stable")
        self.keys, self.content, self.unit = (whole[name][self.row] for name in ("keys", "content", "unit"))
        self.index, self.uri, self.object = (whole[name][self.row] for name in ("index", "uri", "object"))
        self.is_copy, self.live, skips = (whole[name][self.row] for name in ("is_copy", "live", "skips"))
        self.latest = np.append(self.keys[1:] != self.keys[:-1], True)
        self.seen, self.same = np.zeros(len(self.keys), bool), np.zeros(len(self.keys), bool)
        usable = np.setdiff1d(
            self.object[skips & self.latest & self.live], self.object[skips & self.latest & ~self.live]
        )
        self._objects = set(usable.tolist())
        self._met: set[int] = set()

    def find(self, keys: np.ndarray) -> np.ndarray:
        """[n] int64: for each key the position of its latest row; -1: not planned. keys: [n] of KEY_BYTES."""
        at = np.searchsorted(self.keys, keys, side="right") - 1
        return np.where((at >= 0) & (self.keys[np.maximum(at, 0)] == keys), at, -1)

    def find_one(self, key: bytes) -> int:
        """The position of the latest row of a key; -1: not planned."""
        return int(self.find(np.array([key], f"S{KEY_BYTES}"))[0])

    def has(self, file: File) -> bool:
        """Whether this archive or table is planned in this version. All its recordings are then seen and the same."""
        version = _object_hash(file.uri, file.version)
        if not file.version or version not in self._objects:
            return False
        self._met.add(version)
        return True

    @property
    def has_met(self) -> bool:
        """Whether the listing has any archive or table that has not changed."""
        return bool(self._met)

    def has_elsewhere(self, recording_id: str, uri: str) -> bool:
        """Whether this id is planned in another object than the one at `uri`."""
        at = self.find_one(key_of(recording_id))
        return at >= 0 and int(self.uri[at]) != _hash(uri)

    def mark(self, keys: np.ndarray, content: np.ndarray) -> np.ndarray:
        """Note that a listing has these recordings. [n] bool: those that are planned and have not changed."""
        at = self.find(keys)
        known = at >= 0
        here = at[known]
        same = np.zeros(len(keys), bool)
        same[known] = self.is_copy[here] | (self.live[here] & (self.content[here] == content[known]))
        self.seen[here] = True
        self.same[at[same]] = True
        return same

    def end_listing(self) -> None:
        """Note that the listing has all recordings of the objects that `has` has found."""
        met = np.isin(self.object, np.fromiter(self._met, np.int64, len(self._met)))
        self.seen |= met
        self.same |= met & self.live

    def is_copy_of_unchanged(self, at: int, uri: str) -> bool:
        """Whether the row at position `at` is in an archive that has not changed, and not in the one at `uri`."""
        return int(self.object[at]) in self._met and int(self.uri[at]) != _hash(uri)

    def pointer(self, at: int) -> Pointer:
        """Unit and index of the row at a position."""
        return self.unit[at].decode(), int(self.index[at])

    def pointers(self, at: int) -> tuple[Pointer, ...]:
        """Unit and index of all rows with the key of the row at `at`, which is the latest one."""
        first = int(np.searchsorted(self.keys, self.keys[at], side="left"))
        return tuple(self.pointer(place) for place in range(first, at + 1))

    def units_with_copies(self, units: Iterable[str]) -> set[str]:
        """Those of these units that have a duplicate."""
        of = self.is_copy & np.isin(self.unit, np.array(sorted(units), "S16"))
        return {unit.decode() for unit in np.unique(self.unit[of]).tolist()}


def _arrays(table: pa.Table) -> dict[str, np.ndarray]:
    """The rows of a plan as arrays, by the names of PlannedRows."""
    unit = np.array(table["unit_id"].to_pylist(), "S16")
    starts = np.flatnonzero(np.append(True, unit[1:] != unit[:-1]))
    lengths = np.diff(np.append(starts, len(unit)))
    is_copy = pc.fill_null(pc.equal(table["problem"], "duplicate_id"), False).to_numpy()
    keys = [key_of(name) for name in table["recording_id"].to_pylist()]
    if is_copy.any():
        for at in np.flatnonzero(is_copy).tolist():
            row = table.slice(at, 1).to_pylist()[0]
            keys[at] = key_of(row["recording_id"], place_of(row["source_uri"], row["source_member"]))
    pairs = pc.binary_join_element_wise(table["source_uri"], pc.fill_null(table["version"], ""), "\n")
    return {
        "keys": np.frombuffer(b"".join(keys), f"S{KEY_BYTES}"),
        "content": table["content"].to_numpy(),
        "unit": unit,
        "index": (np.arange(len(unit)) - np.repeat(starts, lengths)).astype(np.int32),
        "uri": _hashes(table["source_uri"]),
        "object": _hashes(pairs),
        "is_copy": is_copy,
        "skips": pc.is_in(table["format"], pa.array(SKIPPING)).to_numpy(),
    }


def _hashes(column: pa.ChunkedArray) -> np.ndarray:
    """[rows] int64: a hash of each text. Equal texts are hashed once."""
    encoded = column.combine_chunks().dictionary_encode()
    hashes = np.array([_hash(text) for text in encoded.dictionary.to_pylist()], np.int64)
    return np.asarray(hashes[encoded.indices.to_numpy()])


def _object_hash(uri: str, version: str) -> int:
    return _hash(f"{uri}\n{version}")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
