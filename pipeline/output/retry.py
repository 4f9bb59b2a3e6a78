"""`retry=dead_letters`: a round of new units with the recordings that failed. New results replace the dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import chain

from pipeline.config import PlanConfig
from pipeline.output.commit import committed_units, dead_samples, read_commit, read_unit
from pipeline.planning.pack import PlannedUnit, pack_units
from pipeline.planning.plan import plan_names, read_plan, retry_round, write_plan
from pipeline.schemas import RecordingRef
from pipeline.sources.formats import as_it_is_now
from pipeline.storage.base import Storage

Failure = tuple[RecordingRef, str, int]  # a recording, and the reason and samples (at 16 kHz) of its dead letter


def plan_retry(storage: Storage, config: PlanConfig, *, write_to: Storage | None = None) -> str | None:
    """Plan a round that retries all committed dead letters. Returns its name; None if there is nothing to retry.

    If the last round has units that are not committed, no new round is planned and that round goes on. A recording
    whose problem was known at listing (a duplicate id, a broken archive) is not retried: to read it again cannot help.
    write_to: where the new plan is written; None: to `storage`. A dry run uses another storage.
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
    write_plan(write_to or storage, name, units)  # if another driver has written the plan meanwhile, that one is used
    return name


def latest_units(storage: Storage, names: list[str], committed: Set[str]) -> dict[str, str]:
    """The unit with the latest committed result of each retried recording, by recording id."""
    latest: dict[str, str] = {}
    for name in names[1:]:
        for planned in read_plan(storage, name):
            if planned.unit.unit_id in committed:
                latest.update((ref.recording_id, planned.unit.unit_id) for ref in planned.unit.refs)
    return latest


def _failures(storage: Storage, names: list[str], committed: Set[str]) -> Iterator[Failure]:
    """The recordings whose latest result is a dead letter: first those of the plan, then those of each round."""
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
    """Pack the failures of round `number` into units."""
    waiting: dict[str, tuple[str, int]] = {}  # recordings that `pack_units` has taken, but not yet put into a unit

    def refs() -> Iterator[RecordingRef]:
        for ref, reason, samples in failures:
            waiting[ref.recording_id] = (reason, samples)
            yield as_it_is_now(ref)  # somebody may have repaired it

    for unit in pack_units(refs(), config, retry=number):
        yield PlannedUnit(unit, retried=tuple(waiting.pop(ref.recording_id) for ref in unit.refs))
