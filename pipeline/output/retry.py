"""`retry=dead_letters`: another round of units for recordings that failed, which supersede their dead letters once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import chain

from pipeline.config import PlanConfig
from pipeline.output.commit import committed_units, dead_samples, read_commit, read_unit
from pipeline.planning.pack import PlannedUnit, pack
from pipeline.planning.plan import plan_names, read_plan, retry_round, write_plan
from pipeline.schemas import RecordingRef
from pipeline.storage.base import Storage

Failure = tuple[RecordingRef, str, int]  # reason and samples of the dead letter


def plan_retry(storage: Storage, config: PlanConfig, *, write_to: Storage | None = None) -> str | None:
    """Plan a round of retries of all committed dead letters and return its name; None where there is none to retry.

    A round that is not committed to its end is taken up again instead of adding another. Recordings whose problem was
    known at listing (duplicate ids, broken archives) are left out: the plan is immutable and reading them cannot help.
    write_to: where the new plan is written, if not to `storage` (a dry run).
    """
    names = plan_names(storage)
    committed = committed_units(storage)
    if not names:
        return None
    if len(names) > 1 and next(read_plan(storage, names[-1], skip=committed), None):
        return names[-1]
    number = retry_round(names[-1]) + 1
    failures = _failures(storage, names, committed)
    first = next(failures, None)
    if first is None:
        return None
    name = f"retry-{number}"
    units = _retry_units(chain([first], failures), config, number)
    write_plan(write_to or storage, name, units)  # a racing driver's plan serves as well
    return name


def latest_units(storage: Storage, names: list[str], committed: Set[str]) -> dict[str, str]:
    """Of every recording that was retried: the unit of its latest committed round. Memory: as many as were retried."""
    latest: dict[str, str] = {}
    for name in names[1:]:
        for planned in read_plan(storage, name):
            if planned.unit.unit_id in committed:
                latest.update((ref.recording_id, planned.unit.unit_id) for ref in planned.unit.refs)
    return latest


def _failures(storage: Storage, names: list[str], committed: Set[str]) -> Iterator[Failure]:
    """Recordings whose latest result is a dead letter: those of the plan, then those that failed in a round again."""
    latest = latest_units(storage, names, committed)
    for name in names:
        for planned in read_plan(storage, name):
            unit = planned.unit
            if unit.unit_id not in committed:
                continue
            commit = read_commit(storage, unit.unit_id)
            if not commit["dead"]:
                continue
            letters = read_unit(storage, commit)["dead_letters"].to_pylist()
            failed = {row["recording_id"]: row for row in letters if row["reason"] != "duplicate_id"}
            for ref in unit.refs:
                row = failed.get(ref.recording_id)
                if row and not ref.problem and latest.get(ref.recording_id, unit.unit_id) == unit.unit_id:
                    yield ref, row["reason"], dead_samples(row["seconds"])


def _retry_units(failures: Iterable[Failure], config: PlanConfig, number: int) -> Iterator[PlannedUnit]:
    waiting: dict[str, tuple[str, int]] = {}  # those that `pack` holds back

    def refs() -> Iterator[RecordingRef]:
        for ref, reason, samples in failures:
            waiting[ref.recording_id] = (reason, samples)
            yield ref

    for unit in pack(refs(), config, retry=number):
        yield PlannedUnit(unit, retried=tuple(waiting.pop(ref.recording_id) for ref in unit.refs))
