"""`retry=dead_letters`, `retry=damaged`: a round of units with recordings to try again; the better result counts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

from pipeline.config import PlanConfig
from pipeline.output.commit import committed_units, read_commit
from pipeline.planning.pack import PlannedUnit, pack_units
from pipeline.planning.plan import plan_names, read_plan, retry_round, write_plan
from pipeline.schemas import RecordingRef
from pipeline.sources.formats import as_it_is_now, is_there
from pipeline.storage.base import Storage

Pointer = tuple[str, int]  # a result: the unit, and the index of the recording in it
Wanted = Literal["dead_letters", "damaged"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Results:
    """Which result counts, of each recording that was tried again.

    current: by recording id. superseded: committed results that count no longer.
    """

    current: dict[str, Pointer] = field(default_factory=dict)
    superseded: list[Pointer] = field(default_factory=list)


def plan_retry(
    storage: Storage, config: PlanConfig, wanted: Wanted = "dead_letters", *, write_to: Storage | None = None
) -> str | None:
    """Plan a round that tries all committed dead letters, or all damaged recordings, again.

    If the last round has units that are not committed, no new round is planned and that round goes on. A recording
    whose problem was known at listing is tried again only if its file was missing and is there now: to read a duplicate
    or a broken archive again cannot help. The log says how many such ones there are.
    write_to: where the new plan is written; None: to `storage`. A dry run uses another storage.
    Returns the name of the round; None if there is nothing to try again.
    """
    names = plan_names(storage)
    committed = committed_units(storage)
    if not names:
        return None
    if len(names) > 1 and next(read_plan(storage, names[-1], skip=committed), None):
        return names[-1]
    number = retry_round(names[-1]) + 1
    chosen = _chosen(storage, names, committed, wanted)
    first = next(chosen, None)
    if first is None:
        return None
    name = f"retry-{number}"
    units = _retry_units(chain([first], chosen), config, number)
    write_plan(write_to or storage, name, units)  # if another driver has written the plan meanwhile, that one is used
    return name


def current_results(storage: Storage, names: list[str], committed: Set[str]) -> Results:
    """Which results count. Of two results of a recording it is the better one, of two equal ones the later one.

    A transcript is better than a damaged one, and that is better than a dead letter. Of two damaged ones, the one with
    more audio transcribed is better.
    """
    results = Results()
    load = lru_cache(maxsize=4)(lambda unit_id: read_commit(storage, unit_id))  # a round has the order of its plan
    for name in names[1:]:
        for planned in read_plan(storage, name):
            unit = planned.unit
            if unit.unit_id not in committed:
                continue
            for index, (ref, retried) in enumerate(zip(unit.refs, planned.retried, strict=True)):
                new = (unit.unit_id, index)
                old = results.current.get(ref.recording_id, retried)
                is_better = old[0] not in committed or _worth(load(new[0]), index) >= _worth(load(old[0]), old[1])
                results.current[ref.recording_id] = new if is_better else old
                if old[0] in committed:
                    results.superseded.append(old if is_better else new)
    return results


def _worth(commit: dict[str, Any], index: int) -> tuple[int, int]:
    """How good the result of a recording is: the larger, the better."""
    lists = commit["by_recording"]
    kind = 0 if lists["reason"][index] else 1 if lists["problem"][index] else 2
    return kind, lists["transcribed"][index] if kind == 1 else 0


def _chosen(
    storage: Storage, names: list[str], committed: Set[str], wanted: Wanted
) -> Iterator[tuple[RecordingRef, Pointer]]:
    """The recordings to try again with their current results: first those of the plan, then those of each round."""
    results = current_results(storage, names, committed)
    kind = "reason" if wanted == "dead_letters" else "problem"
    listed = 0
    for name in names:
        for planned in read_plan(storage, name):
            unit = planned.unit
            if unit.unit_id not in committed:
                continue
            values = read_commit(storage, unit.unit_id)["by_recording"][kind]
            for index, (ref, value) in enumerate(zip(unit.refs, values, strict=True)):
                here = (unit.unit_id, index)
                is_copy = ref.problem == "duplicate_id"
                if value is None or (not is_copy and results.current.get(ref.recording_id, here) != here):
                    continue
                if ref.problem is None or is_there(ref):
                    yield replace(ref, problem=None, problem_detail=None), here
                else:
                    listed += 1
    if listed:
        log.warning(
            "retry: %d dead letters come from the listing and are not tried again: their source says the same", listed
        )


def _retry_units(
    chosen: Iterable[tuple[RecordingRef, Pointer]], config: PlanConfig, number: int
) -> Iterator[PlannedUnit]:
    """Pack the recordings of round `number` into units."""
    waiting: dict[str, Pointer] = {}  # recordings that `pack_units` has taken, but not yet put into a unit

    def refs() -> Iterator[RecordingRef]:
        for ref, result in chosen:
            waiting[ref.recording_id] = result
            yield as_it_is_now(ref)  # somebody may have repaired it

    for unit in pack_units(refs(), config, retry=number):
        yield PlannedUnit(unit, retried=tuple(waiting.pop(ref.recording_id) for ref in unit.refs))
