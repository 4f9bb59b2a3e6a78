"""Which results count: a recording may be in several plans, after a retry or an update, and have several results."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from pipeline.output.commit import read_commit
from pipeline.planning.pack import Pointer
from pipeline.planning.plan import gone_recordings, plan_size, read_plan, read_round, withdrawn_units
from pipeline.storage.base import Storage, in_order

DEAD, DAMAGED, WHOLE = range(3)  # results, from the worst to the best


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
    kind = DEAD if lists["reason"][index] else DAMAGED if lists["problem"][index] else WHOLE
    return kind, lists["transcribed"][index] if kind == DAMAGED else 0
