"""Which rows are written together: bounded shards, the same in every run over the same input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.export.labels import TRAIN, read_choices
from pipeline.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows of one split in one file of the input, from `first` to before `stop`. number: in its split, from 0.

    units: those that hold its recordings.
    """

    split: str
    number: int
    key: str
    first: int
    stop: int
    units: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name in the commits."""
        return f"{self.split}-{self.number:06d}"


@dataclass(slots=True)
class Dropped:
    """Rows and milliseconds that the input drops, by reason."""

    rows: Counter[str] = field(default_factory=Counter)
    milliseconds: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Open:
    first: int
    rows: int = 0
    stop: int = 0
    recording: str = ""
    units: dict[str, None] = field(default_factory=dict)


def plan_shards(
    storage: Storage, keys: Iterable[str], shard_rows: int, *, all_rows: bool, dropped: Dropped
) -> Iterator[Shard]:
    """The shards of an input in order. A shard ends between two recordings. `dropped` counts what the input drops.

    all_rows: shards have the dropped rows too.
    """
    numbers: Counter[str] = Counter()
    for key in keys:
        opened: dict[str, _Open] = {}
        for at, row in enumerate(read_choices(storage, key)):
            if not row["kept"]:
                dropped.rows[row["reason"]] += 1
                dropped.milliseconds[row["reason"]] += row["end_ms"] - row["start_ms"]
                if not all_rows:
                    continue
            split = row["split"] or TRAIN
            shard = opened.get(split)
            if shard and shard.rows >= shard_rows and shard.recording != row["recording_id"]:
                yield _closed(opened.pop(split), key, split, numbers)
            shard = opened.setdefault(split, _Open(at))
            shard.rows, shard.stop, shard.recording = shard.rows + 1, at + 1, row["recording_id"]
            shard.units[row["unit_id"]] = None
        for split, shard in opened.items():
            yield _closed(shard, key, split, numbers)


def _closed(shard: _Open, key: str, split: str, numbers: Counter[str]) -> Shard:
    numbers[split] += 1
    return Shard(split, numbers[split] - 1, key, shard.first, shard.stop, tuple(shard.units))
