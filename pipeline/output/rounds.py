"""Which results count: a recording may be in several plans, after a retry or an update, and have several results."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from pipeline.output.commit import read_commit
from pipeline.planning.pack import PlannedUnit, Pointer
from pipeline.planning.plan import gone_recordings, plan_size, read_plan, read_round, withdrawn_units
from pipeline.storage.base import Storage, in_order

DEAD, DAMAGED, WHOLE = range(3)  # results, from the worst to the best
Worth = tuple[int, int]  # of a result: the larger, the better
_UnitOfRound = tuple[bool, PlannedUnit]  # with whether the round is an update


@dataclass(slots=True)
class Results:
    """Which result counts, of each recording that was tried again.

    current: by recording id; the unit may have no result yet. superseded: committed results that count no longer.
    pending: ids of recordings that a round will read again. dropped: ids of recordings that are gone and have only a
    dead letter, which counts no longer. taken_back: how many are gone and have no result at all.
    """

    current: dict[str, Pointer] = field(default_factory=dict)
    superseded: list[Pointer] = field(default_factory=list)
    pending: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    taken_back: int = 0


def current_results(
    storage: Storage, names: list[str], committed: Set[str], *, results: Storage | None = None
) -> Results:
    """Which results count, if the units `committed` have some.

    After an update it is the later one, because the source has another version. Otherwise it is the better one of two
    results of a recording, and of two equal ones the later one. A transcript is better than a damaged one, and that is
    better than a dead letter. Of two damaged ones, the one with more audio transcribed is better.
    storage: has the plans. results: has the commits; None: the same.
    """
    found = Results()
    withdrawn = withdrawn_units(storage, names)
    commits = results or storage
    # A round has the order of its plan, so neighbours are in the same unit.
    load = lru_cache(maxsize=4)(lambda unit_id: read_commit(commits, unit_id))
    read = partial(_worth_of_unit, commits, committed)
    for (is_update, planned), worth in in_order(read, _units_of_rounds(storage, names), commits.parallel):
        for index, (ref, earlier) in enumerate(zip(planned.unit.refs, planned.earlier, strict=True)):
            name, new = ref.recording_id, (planned.unit.unit_id, index)
            old = found.current.setdefault(name, earlier)
            if new[0] in committed:
                was = None
                if old[0] in committed and not is_update:
                    was = worth[old] if old in worth else _worth(load(old[0]), old[1])
                is_better = was is None or worth[new] >= was
                found.current[name] = new if is_better else old
                if old[0] in committed:
                    found.superseded.append(old if is_better else new)
                found.pending.discard(name)
            elif new[0] not in withdrawn:
                found.pending.add(name)
    for name, places in gone_recordings(storage, names).items():
        have_results = [place for place in places if place[0] in committed]
        last = found.current.get(name, have_results[-1]) if have_results else None
        if places and last is None:
            found.taken_back += 1
        elif last and _worth(load(last[0]), last[1])[0] == DEAD:
            found.superseded.append(last)
            found.dropped.add(name)
    return found


def planned_now(storage: Storage, names: list[str], committed: Set[str], found: Results) -> tuple[int, int]:
    """How many units and recordings all plans have together, if the units `committed` have the results `found`.

    Withdrawn units without a result do not count, nor do recordings that are gone and were never recognised.
    """
    sizes = list(in_order(partial(plan_size, storage), names, storage.parallel))
    units = sum(size.units for size in sizes) - len(withdrawn_units(storage, names) - committed)
    return units, sum(size.added for size in sizes) - found.taken_back - len(found.dropped)


def _units_of_rounds(storage: Storage, names: list[str]) -> Iterator[_UnitOfRound]:
    """The units of all rounds, which have recordings again."""
    for name in names[1:]:
        is_update = read_round(storage, name).kind == "update"
        for planned in read_plan(storage, name, placed=False):
            yield is_update, planned


def _worth_of_unit(
    commits: Storage, committed: Set[str], of_round: _UnitOfRound
) -> tuple[_UnitOfRound, dict[Pointer, Worth]]:
    """The unit with the worth of its results and of those before them. None is compared if it is not committed.

    The result of an update counts whatever was before it.
    """
    is_update, planned = of_round
    unit_id = planned.unit.unit_id
    worth: dict[Pointer, Worth] = {}
    if unit_id in committed and not is_update:
        places = {*planned.earlier, *((unit_id, index) for index in range(len(planned.unit.refs)))}
        for name, of_commit in groupby(sorted(place for place in places if place[0] in committed), itemgetter(0)):
            commit = read_commit(commits, name)
            worth |= {place: _worth(commit, place[1]) for place in of_commit}
    return of_round, worth


def _worth(commit: dict[str, Any], index: int) -> Worth:
    """How good the result of a recording is: the larger, the better."""
    lists = commit["by_recording"]
    kind = DEAD if lists["reason"][index] else DAMAGED if lists["problem"][index] else WHOLE
    return kind, lists["transcribed"][index] if kind == DAMAGED else 0
