"""The books of a run: recordings and samples planned, transcribed, silent and dead-lettered, and whether they close."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.output.commit import read_commits
from pipeline.planning.plan import BASE, plan_names, plan_size, read_plan, unit_ids
from pipeline.schemas import SAMPLE_RATE
from pipeline.storage.base import Storage


@dataclass(slots=True)
class Tally:
    """Sums over commits, in integers. Retried recordings are moved from their earlier dead letter to the new result."""

    units_planned: int
    recordings_planned: int
    units_committed: int = 0
    transcribed: int = 0
    rows: int = 0
    strays: int = 0
    dead: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)

    def add(self, commit: Mapping[str, Any], retried: Iterable[tuple[str, int]] = ()) -> None:
        """Count one commit. `retried`: reason and samples of the dead letters that it supersedes."""
        self.units_committed += 1
        self.transcribed += commit["transcribed"]
        self.rows += commit["rows"]
        for reason, count in commit["dead"].items():
            self.dead[reason] += count
        for name, count in commit["samples"].items():
            self.samples[name] += count
        for reason, samples in retried:
            self.dead[reason] -= 1
            self.samples["in"] -= samples
            self.samples["dead"] -= samples

    @property
    def complete(self) -> bool:
        """Every unit that was planned is committed."""
        return self.units_committed == self.units_planned

    def complaints(self) -> list[str]:
        """What does not add up, where nothing is merely still to be done."""
        samples, dead = self.samples, self.dead.total()
        found = []
        if self.strays:
            found.append(f"{self.strays} commits belong to no plan")
        if samples["in"] != samples["transcribed"] + samples["silence"] + samples["dead"]:
            found.append(f"samples do not close: {dict(samples)}")
        if min([*self.dead.values(), *samples.values()], default=0) < 0:
            found.append(f"a count is negative: {dict(self.dead)}, {dict(samples)}")
        answered = self.transcribed + dead
        if answered > self.recordings_planned or (self.complete and answered != self.recordings_planned):
            found.append(f"{self.recordings_planned} recordings planned, {self.transcribed} transcribed, {dead} dead")
        return found

    def report(self) -> dict[str, Any]:
        """The content of _run/accounting.json. `closed`: nothing is missing and nothing counted twice."""
        dead, samples = self.dead.total(), self.samples
        pending = self.recordings_planned - self.transcribed - dead
        counts = {
            "in": samples["in"],
            "transcribed": samples["transcribed"],
            "silence": samples["silence"],
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
            "recordings_pending": pending,
            "dead_letters": {reason: count for reason, count in sorted(self.dead.items()) if count},
            "segments": self.rows,
            **{f"samples_{name}": count for name, count in counts.items()},
            **{f"seconds_{name}": count / SAMPLE_RATE for name, count in counts.items()},
        }


def new_tally(storage: Storage, names: list[str]) -> Tally:
    """An empty tally for the plans `names` of an output."""
    sizes = [plan_size(storage, name) for name in names]
    return Tally(sum(size.units for size in sizes), sizes[0].recordings if sizes else 0)


def accounting(storage: Storage) -> dict[str, Any]:
    """The books as they stand now: plan against commits, no data file is read. About 250 MB for a million units."""
    names = plan_names(storage)
    planned = unit_ids(storage, BASE) if names else set()
    retried = {entry.unit.unit_id: entry.retried for name in names[1:] for entry in read_plan(storage, name)}
    tally = new_tally(storage, names)
    for commit in read_commits(storage):
        if commit["unit_id"] in planned or commit["unit_id"] in retried:
            tally.add(commit, retried.get(commit["unit_id"], ()))
        else:
            tally.strays += 1
    return tally.report()
