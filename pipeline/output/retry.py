"""`retry=dead_letters`, `retry=damaged`: a round of units with recordings to try again; the better result counts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Set
from dataclasses import replace
from itertools import chain
from typing import Literal

from pipeline.config import PlanConfig
from pipeline.output.commit import committed_units, read_commit
from pipeline.output.rounds import current_results
from pipeline.planning.pack import Pointer, replacing_units
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
from pipeline.schemas import RecordingRef, WorkUnit
from pipeline.sources.formats import as_it_is_now, is_there
from pipeline.storage.base import Storage, in_order

LOOKUPS = 32  # files that are looked up in the source at the same time
Wanted = Literal["dead_letters", "damaged"]

log = logging.getLogger(__name__)


def plan_retry(
    storage: Storage,
    config: PlanConfig,
    wanted: Wanted = "dead_letters",
    *,
    results: Storage | None = None,
    at_least: int = 0,
) -> str | None:
    """Plan a round that tries all committed dead letters, or all damaged recordings, again.

    If the last round of retries has units that are not committed, no new round is planned and that round goes on. A
    recording whose problem was known at listing is tried again only if its file was missing and is there now: to read a
    duplicate or a broken archive again cannot help. The log says how many such ones there are. A recording that any
    round will read again is not planned twice.
    storage: has the plans, and gets the new one. results: has the commits; None: the same. A dry run has two.
    at_least: so many units, as in `pack_units`.
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
        units = replacing_units(chain([first], chosen), config, number, at_least=at_least)
        if write_plan(storage, round_name(number), units, about=Round("retry")):
            return round_name(number)
        # Another driver has planned a round meanwhile, so what is to be tried again is no longer the same.


def _open_round(storage: Storage, names: list[str], committed: Set[str]) -> str | None:
    """The last round of retries, if it has units that are neither committed nor withdrawn."""
    name = next((name for name in reversed(names[1:]) if read_round(storage, name).kind == "retry"), None)
    if name is None or not next(read_plan(storage, name, skip=committed | withdrawn_units(storage, names)), None):
        return None
    return name


def _chosen(
    storage: Storage, results: Storage, names: list[str], committed: Set[str], wanted: Wanted
) -> Iterator[tuple[RecordingRef, Pointer]]:
    """The recordings to try again, as they are now, with their current results.

    First those of the plan, then those of each round. Their files are looked up in parallel.
    """
    candidates = _candidates(storage, results, names, committed, wanted)
    listed = 0
    for ref, here in in_order(_looked_up, candidates, LOOKUPS):
        if ref is None:
            listed += 1
        else:
            yield ref, here
    if listed:
        log.warning(
            "retry: %d dead letters come from the listing and are not tried again: their source says the same", listed
        )


def _looked_up(candidate: tuple[RecordingRef, Pointer]) -> tuple[RecordingRef | None, Pointer]:
    """The recording as it is now, since it may be repaired. None if its source says the same as when it was listed."""
    ref, here = candidate
    if ref.problem is None or is_there(ref):
        return as_it_is_now(replace(ref, problem=None, problem_detail=None)), here
    return None, here


def _candidates(
    storage: Storage, results: Storage, names: list[str], committed: Set[str], wanted: Wanted
) -> Iterator[tuple[RecordingRef, Pointer]]:
    """The recordings whose current result is `wanted` to be tried again. Their commits are read in parallel."""
    found = current_results(storage, names, committed, results=results)
    kind = "reason" if wanted == "dead_letters" else "problem"

    def read(unit: WorkUnit) -> tuple[WorkUnit, list[str | None]]:
        return unit, read_commit(results, unit.unit_id)["by_recording"][kind]

    for name in names:
        units = (planned.unit for planned in read_plan(storage, name) if planned.unit.unit_id in committed)
        for unit, values in in_order(read, units, results.parallel):
            for index, (ref, value) in enumerate(zip(unit.refs, values, strict=True)):
                here = (unit.unit_id, index)
                is_copy = ref.problem == "duplicate_id"
                if value is None or (not is_copy and found.current.get(ref.recording_id, here) != here):
                    continue
                if not is_copy and (ref.recording_id in found.pending or ref.recording_id in found.dropped):
                    continue
                yield ref, here
