"""The books of a run: how many recordings and samples were planned, transcribed, silent, dead; whether they close."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.output.commit import LEFT_OUT, SAMPLES, Commits, one_of, read_commit
from pipeline.output.parts import Part, is_known, parts_of, read_ledger
from pipeline.output.rounds import current_results, planned_now
from pipeline.planning.plan import plan_names
from pipeline.schemas import SAMPLE_RATE
from pipeline.storage.base import Storage, in_order

LENGTHS = (0, 1, 2, 5, 10, 30, 60, 300, 1800, 3600)  # seconds: where the classes of recordings by length begin
_LENGTHS = [seconds * SAMPLE_RATE for seconds in LENGTHS]


@dataclass(slots=True)
class Tally:
    """Sums over commits, in integers. Of a recording that was tried again, one result counts."""

    units_planned: int = 0
    recordings_planned: int = 0
    units_committed: int = 0
    transcribed: int = 0  # recordings
    rows: int = 0  # of transcripts
    unplanned: int = 0  # commits of units that are in no plan
    archives_unread: int = 0
    dead: Counter[str] = field(default_factory=Counter)  # recordings by reason
    damaged: Counter[str] = field(default_factory=Counter)  # recordings among the transcribed ones, by reason
    samples: Counter[str] = field(default_factory=Counter)  # at 16 kHz, by the names of commit.SAMPLES
    left_out: Counter[str] = field(default_factory=Counter)  # by the names of commit.LEFT_OUT
    bytes: Counter[str] = field(default_factory=Counter)  # of the source: in, dead, unread
    lengths: Counter[str] = field(default_factory=Counter)  # recordings with audio, by the class in LENGTHS
    minutes: Counter[str] = field(default_factory=Counter)  # samples by the minute of the commit, counted or not

    def add(self, commit: Mapping[str, Any]) -> None:
        """Count one commit."""
        self.units_committed += 1
        self.minutes[commit["time"][: len("2026-01-31T23:59")]] += commit["samples"]["in"]
        self._count(commit, 1)

    def supersede(self, commit: Mapping[str, Any], index: int) -> None:
        """Count the result of one recording of a commit no longer: another result of it counts."""
        self._count(one_of(commit, index), -1)

    def _count(self, commit: Mapping[str, Any], sign: int) -> None:
        self.transcribed += sign * commit["transcribed"]
        self.rows += sign * commit["rows"]
        self.archives_unread += sign * commit["archives_unread"]
        for name in ("dead", "damaged", "samples", "left_out", "bytes"):
            counter = getattr(self, name)
            for key, count in commit[name].items():
                counter[key] += sign * count
        for samples in filter(None, commit["by_recording"]["in"]):
            self.lengths[str(LENGTHS[bisect_right(_LENGTHS, samples) - 1])] += sign

    def merge(self, other: Tally) -> None:
        """Add the counts of another one."""
        for name in self.__slots__:
            if isinstance(counted := getattr(other, name), Counter):
                getattr(self, name).update(counted)
            else:
                setattr(self, name, getattr(self, name) + counted)

    def to_json(self) -> dict[str, Any]:
        """All counts, for `from_json`."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, counts: Mapping[str, Any]) -> Tally:
        """The tally that `to_json` has given."""
        values: dict[str, Any] = {
            name: Counter(count) if isinstance(count, dict) else count for name, count in counts.items()
        }
        return cls(**values)

    @property
    def complete(self) -> bool:
        """Whether every planned unit is committed."""
        return self.units_committed == self.units_planned

    def complaints(self) -> list[str]:
        """What does not add up. Units that are not committed yet are no complaint."""
        samples, dead = self.samples, self.dead.total()
        complaints = []
        if self.unplanned:
            complaints.append(f"{self.unplanned} commits belong to no plan")
        if samples["in"] != sum(samples[name] for name in SAMPLES[1:]):
            complaints.append(f"samples do not close: {dict(samples)}")
        if min([*self.dead.values(), *self.damaged.values(), *samples.values(), *self.bytes.values()], default=0) < 0:
            complaints.append(f"a count is negative: {dict(self.dead)}, {dict(samples)}")
        answered = self.transcribed + dead
        if answered > self.recordings_planned or (self.complete and answered != self.recordings_planned):
            complaints.append(
                f"{self.recordings_planned} recordings planned, {self.transcribed} transcribed, {dead} dead"
            )
        return complaints

    @property
    def recordings_unread(self) -> int:
        """About how many recordings are in archives that cannot be read, besides the one that each counts as.

        By the bytes of these archives, and the mean bytes of the recordings that are known.
        """
        known = self.transcribed + self.dead.total() - self.archives_unread
        size = self.bytes["in"] - self.bytes["unread"]
        return max(0, round(self.bytes["unread"] * known / size) - self.archives_unread) if size else 0

    def report(self) -> dict[str, Any]:
        """The content of _run/accounting.json. closed: nothing is missing and nothing is counted twice."""
        dead, samples = self.dead.total(), self.samples
        pending = self.recordings_planned - self.transcribed - dead
        counts = {
            "in": samples["in"],
            "transcribed": samples["transcribed"],
            "silence": samples["silence"],
            "lost": samples["lost"],
            "dead_lettered": samples["dead"],
        }
        return {
            "closed": not self.complaints() and pending == 0,
            "complete": self.complete,
            "complaints": self.complaints(),
            "units_planned": self.units_planned,
            "units_committed": self.units_committed,
            "recordings_planned": self.recordings_planned,
            "recordings_transcribed": self.transcribed,
            "recordings_dead_lettered": dead,
            "recordings_damaged": self.damaged.total(),
            "recordings_unread": self.recordings_unread,
            "recordings_pending": pending,
            "dead_letters": {reason: count for reason, count in sorted(self.dead.items()) if count},
            "damaged": {reason: count for reason, count in sorted(self.damaged.items()) if count},
            "segments": self.rows,
            "left_out": {name: self.left_out[name] for name in LEFT_OUT},
            "bytes_in": self.bytes["in"],
            "bytes_dead_lettered": self.bytes["dead"],
            "bytes_unread": self.bytes["unread"],
            **{f"samples_{name}": count for name, count in counts.items()},
            **{f"seconds_{name}": count / SAMPLE_RATE for name, count in counts.items()},
        }


def count_part(storage: Storage, part: Part) -> Tally:
    """The sums over the commits of a part. Each is read once, and so are those of results that count no longer."""
    tally = Tally()
    for commit in in_order(partial(read_commit, storage), part.unit_ids(), storage.parallel):
        tally.add(commit)
    superseded: dict[str, list[int]] = {}
    for unit_id, index in part.superseded:
        superseded.setdefault(unit_id, []).append(index)
    commits = in_order(partial(read_commit, storage), superseded, storage.parallel)
    for commit, indexes in zip(commits, superseded.values(), strict=True):
        for index in indexes:
            tally.supersede(commit, index)
    return tally


def close_books(storage: Storage) -> dict[str, Any]:
    """Compare all commits with the plans. Returns the content of _run/accounting.json as it would be now.

    No data file is read. Of parts that are published as they are now, no commit is read either. Memory: about 250 MB
    for a million units.
    """
    names, commits, ledger = plan_names(storage), Commits(storage), read_ledger(storage)
    results = current_results(storage, names, commits.units)
    tally = Tally(*planned_now(storage, names, commits.units, results))
    planned = 0
    for part in parts_of(storage, names, commits, results):
        known = ledger.get(part.name)
        is_same = known is not None and is_known(known, part)
        tally.merge(Tally.from_json(known["tally"]) if known and is_same else count_part(storage, part))
        planned += len(part.units)
    tally.unplanned = len(commits.units) - planned
    return tally.report()
