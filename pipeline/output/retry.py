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
from pipeline.planning.pack import PlannedUnit, Pointer, pack_units
from pipeline.planning.plan import (
    Round,
    plan_names,
    read_plan,
    read_round,
    round_name,
    round_number,
    withdrawn_units,
    write_plan,
)
from pipeline.schemas import RecordingRef
from pipeline.sources.formats import as_it_is_now, is_there
from pipeline.storage.base import Storage

Wanted = Literal["dead_letters", "damaged"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Results:
    """Which result counts, of each recording that was tried again.

    current: by recording id; the unit may have no result yet. superseded: committed results that count no longer.
    pending: ids of recordings that a round will read again.
    """

    current: dict[str, Pointer] = field(default_factory=dict)
    superseded: list[Pointer] = field(default_factory=list)
    pending: set[str] = field(default_factory=set)


def plan_retry(
    storage: Storage, config: PlanConfig, wanted: Wanted = "dead_letters", *, results: Storage | None = None
) -> str | None:
    """Plan a round that tries all committed dead letters, or all damaged recordings, again.

    If the last round of retries has units that are not committed, no new round is planned and that round goes on. A
    recording whose problem was known at listing is tried again only if its file was missing and is there now: to read a
    duplicate or a broken archive again cannot help. The log says how many such ones there are. A recording that any
    round will read again is not planned twice.
    storage: has the plans, and gets the new one. results: has the commits; None: the same. A dry run has two.
    Returns the name of the round; None if there is nothing to try again.
    """
    results = results or storage
    while True:
        names = plan_names(storage)
        committed = committed_units(results)
        if open_round := _open_round(storage, names, committed):
            return open_round
        number = round_number(names[-1]) + 1 if names else 0
        chosen = _chosen(storage, results, names, committed, wanted)
        first = next(chosen, None)
        if first is None:
            return None
        units = _retry_units(chain([first], chosen), config, number)
        if write_plan(storage, round_name(number), units, about=Round("retry")):
            return round_name(number)
        # Another driver has planned a round meanwhile, so what is to be tried again is no longer the same.


def _open_round(storage: Storage, names: list[str], committed: Set[str]) -> str | None:
    """The last round of retries, if it has units that are neither committed nor withdrawn."""
    name = next((name for name in reversed(names[1:]) if read_round(storage, name).kind == "retry"), None)
    if name is None or not next(read_plan(storage, name, skip=committed | withdrawn_units(storage, names)), None):
        return None
    return name


def current_results(
    storage: Storage, names: list[str], committed: Set[str], *, results: Storage | None = None
) -> Results:
    """Which results count. After an update it is the later one: the source has another version.

    Otherwise it is the better one of two results of a recording, and of two equal ones the later one. A transcript is
    better than a damaged one, and that is better than a dead letter. Of two damaged ones, the one with more audio
    transcribed is better.
    storage: has the plans. results: has the commits; None: the same.
    """
    found = Results()
    withdrawn = withdrawn_units(storage, names)
    # A round has the order of its plan, so neighbours are in the same unit.
    load = lru_cache(maxsize=4)(lambda unit_id: read_commit(results or storage, unit_id))
    for is_update, name, new, earlier in _results_of_rounds(storage, names):
        old = found.current.setdefault(name, earlier)
        if new[0] in committed:
            was = None if is_update or old[0] not in committed else _worth(load(old[0]), old[1])
            is_better = was is None or _worth(load(new[0]), new[1]) >= was
            found.current[name] = new if is_better else old
            if old[0] in committed:
                found.superseded.append(old if is_better else new)
            found.pending.discard(name)
        elif new[0] not in withdrawn:
            found.pending.add(name)
    return found


def _results_of_rounds(storage: Storage, names: list[str]) -> Iterator[tuple[bool, str, Pointer, Pointer]]:
    """Of each recording that a round has again: whether the round is an update, its id, its result, the one before."""
    for name in names[1:]:
        is_update = read_round(storage, name).kind == "update"
        for planned in read_plan(storage, name, placed=False):
            for index, (ref, earlier) in enumerate(zip(planned.unit.refs, planned.earlier, strict=True)):
                yield is_update, ref.recording_id, (planned.unit.unit_id, index), earlier


def _worth(commit: dict[str, Any], index: int) -> tuple[int, int]:
    """How good the result of a recording is: the larger, the better."""
    lists = commit["by_recording"]
    kind = 0 if lists["reason"][index] else 1 if lists["problem"][index] else 2
    return kind, lists["transcribed"][index] if kind == 1 else 0


def _chosen(
    storage: Storage, results: Storage, names: list[str], committed: Set[str], wanted: Wanted
) -> Iterator[tuple[RecordingRef, Pointer]]:
    """The recordings to try again with their current results: first those of the plan, then those of each round."""
    found = current_results(storage, names, committed, results=results)
    kind = "reason" if wanted == "dead_letters" else "problem"
    listed = 0
    for name in names:
        for planned in read_plan(storage, name):
            unit = planned.unit
            if unit.unit_id not in committed:
                continue
            values = read_commit(results, unit.unit_id)["by_recording"][kind]
            for index, (ref, value) in enumerate(zip(unit.refs, values, strict=True)):
                here = (unit.unit_id, index)
                is_copy = ref.problem == "duplicate_id"
                if value is None or (not is_copy and found.current.get(ref.recording_id, here) != here):
                    continue
                if ref.recording_id in found.pending and not is_copy:
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

    for unit in pack_units(refs(), config, number=number):
        yield PlannedUnit(unit, None, tuple(waiting.pop(ref.recording_id) for ref in unit.refs))
