"""What a source has gained, changed and lost since it was planned; `plan.update=true` plans that as a further round.

The source is listed once. No audio is read, and archives and tables that have not changed are not opened.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice

import numpy as np
import pyarrow as pa

from pipeline.config import ConfigError, PlanConfig, SourceConfig
from pipeline.planning.pack import (
    PlannedUnit,
    Pointer,
    content_hash,
    mark_duplicates,
    pack_units,
    replacing_units,
    with_parts,
)
from pipeline.planning.plan import (
    Round,
    gone_recordings,
    plan_names,
    plan_size,
    read_columns,
    read_plan,
    round_name,
    round_number,
    write_plan,
)
from pipeline.planning.planned import KEY_BYTES, PlannedRows, key_of, key_of_ref
from pipeline.schemas import RecordingRef, WorkUnit
from pipeline.sources.access.listing import check_root
from pipeline.sources.formats import RELEASES, list_recordings
from pipeline.storage.base import Storage, read_json
from pipeline.storage.errors import StorageError
from pipeline.storage.local import LocalStorage
from pipeline.storage.scratch import scratch_folder

KEY = "_run/source.json"  # what the last comparison of the source with the plans has found
LISTED = "listed"  # the plan file with the listed recordings that are new or have changed
BATCH = 4096  # recordings that are compared at once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """How many recordings a source has gained, changed and lost. taken_up: an update has planned that."""

    new: int = 0
    changed: int = 0
    gone: int = 0
    taken_up: bool = False

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.gone)

    def __str__(self) -> str:
        counts = f"{self.new:,} new, {self.changed:,} changed, {self.gone:,} gone"
        return f"{counts}: {'planned as a further round' if self.taken_up else 'plan.update=true takes them up'}"


def last_changes(storage: Storage) -> Changes:
    """What the last comparison of the source with the plans of this output has found."""
    return Changes(**read_json(storage, KEY))


def note_changes(
    storage: Storage, source: SourceConfig, config: PlanConfig, find: Callable[[], Changes | None]
) -> None:
    """Call `find`, which is `source_changes`, and keep what it finds in the output, for the summary.

    A source that cannot be listed is only an error with plan.update or plan.strict: what is planned may be done.
    """
    try:
        found = find()
    except (ConfigError, StorageError) as err:
        if config.update or config.strict:
            if source.format != "huggingface":  # it may be a name on the hub
                check_root(source.uri)  # a mount that is gone is no mistake in the settings
            raise
        log.warning("the source cannot be compared with the plan: %s", err)
        found = None
    if found and not found.taken_up:
        log.warning("source.uri: %s has changed since it was planned: %s", source.uri, found)
    storage.put(KEY, json.dumps(asdict(found or Changes())).encode())


def source_changes(
    storage: Storage,
    source: SourceConfig,
    config: PlanConfig,
    *,
    part_rows: int,
    at_least: int,
    committed: Set[str],
    is_recognised: Callable[[Pointer], bool],
) -> Changes | None:
    """Compare the source with the plans of this output. With plan.update, plan a round of what has changed.

    at_least: units of each kind, as in `pack_units`. committed: ids of units. is_recognised: whether a committed
    result is a transcript. Without plan.update it is the same as `compare_source`, which may return None. Raises
    ConfigError if the source cannot be listed or is empty.
    """
    if not config.update:
        return compare_source(storage, source, committed)
    while True:
        names = plan_names(storage)
        with _Comparison(storage, source, names, committed) as found:
            if not found.changes:
                return found.changes
            number = round_number(names[-1]) + 1
            first = max(plan_size(storage, name).end_part for name in names)
            new = with_parts(pack_units(found.new(), config, number=number, at_least=at_least), part_rows, first=first)
            units = chain(replacing_units(found.again(), config, number, at_least=at_least), new)
            if write_plan(storage, round_name(number), units, about=found.round(is_recognised)):
                taken = replace(found.changes, taken_up=True)
                log.info("%s: %s as _run/%s.parquet", source.uri, taken, round_name(number))
                return taken
        # Another driver has planned a round meanwhile: what is left to plan is no longer the same.


def compare_source(storage: Storage, source: SourceConfig, committed: Set[str]) -> Changes | None:
    """What the source has gained, changed and lost since the plans of this output. Nothing is written.

    committed: ids of units. Returns None where the source is a release (a corpus or a dataset, which does not grow): to
    list it means to unpack it. Raises ConfigError if the source cannot be listed or is empty.
    """
    comparison = _Comparison(storage, source, plan_names(storage), committed)
    if comparison.format in RELEASES:
        return None
    with comparison as found:
        return found.changes


class _Comparison:
    """One listing of a source beside the plans `names`. It is a context: what is listed waits in a temporary folder."""

    def __init__(self, storage: Storage, source: SourceConfig, names: list[str], committed: Set[str]) -> None:
        self.storage, self.names, self.committed = storage, names, committed
        self.format: str = next(read_columns(storage, names[0], ["format"]))["format"][0].as_py()
        self.source = source.model_copy(update={"format": self.format})  # files of another kind do not change it
        self.changes = Changes()
        self._gone: list[int] = []  # positions of rows
        self._withdrawn: set[str] = set()
        self._end = contextlib.ExitStack()

    def __enter__(self) -> _Comparison:
        folder = self._end.enter_context(scratch_folder("list-"))
        self._spool = LocalStorage(folder)
        try:
            self._rows = PlannedRows(self.storage, self.names, self.committed)
            write_plan(self._spool, LISTED, self._listed())
            self._rows.end_listing()
            self._compare()
        except BaseException:
            self._end.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def new(self) -> Iterator[RecordingRef]:
        """The recordings that no plan has."""
        return (ref for ref, at in self._news() if at < 0)

    def again(self) -> Iterator[tuple[RecordingRef, Pointer]]:
        """The recordings that plans have and that are to be read again, each with the result before.

        They have changed, or have come back, or are in a unit that is withdrawn because of others in it.
        """
        for ref, at in self._news():
            if at >= 0:
                yield ref, self._rows.pointer(at)
        for name in self.names if self._withdrawn else ():
            for planned in read_plan(self.storage, name):
                unit = planned.unit
                for index, ref in enumerate(unit.refs) if unit.unit_id in self._withdrawn else ():
                    at = self._rows.find_one(key_of_ref(ref))
                    if self._rows.same[at] and self._rows.pointer(at) == (unit.unit_id, index):
                        yield ref, (unit.unit_id, index)

    def round(self, is_recognised: Callable[[Pointer], bool]) -> Round:
        """What the update withdraws, and what is gone."""
        gone: dict[str, tuple[Pointer, ...]] = {}
        kept = []
        for recording_id, at in self._names_of_gone():
            places = self._rows.pointers(at)
            last = next((place for place in reversed(places) if place[0] in self.committed), None)
            if last and is_recognised(last):
                kept.append(recording_id)
            else:
                gone[recording_id] = places
        return Round("update", tuple(sorted(self._withdrawn)), gone, tuple(kept))

    def _listed(self) -> Iterator[PlannedUnit]:
        """List the source and mark what is there; what is new or has changed, as units that are only packets."""
        refs = mark_duplicates(list_recordings(self.source, self._rows))
        packets = iter(lambda: list(islice(refs, BATCH)), [])
        number = -1
        for number, packet in enumerate(packets):
            same = self._rows.mark(_keys(packet), np.array([content_hash(ref) for ref in packet], np.int64))
            waiting = tuple(ref for ref, known in zip(packet, same.tolist(), strict=True) if not known)
            if waiting:
                yield PlannedUnit(WorkUnit(str(number), waiting))
        if number < 0 and not self._rows.has_met:
            raise ConfigError(f"source.uri: {self.source.uri}: nothing is there any more, but recordings were planned")

    def _news(self) -> Iterator[tuple[RecordingRef, int]]:
        """What is new or has changed, with the position of its latest row; -1: no plan has it."""
        rows = self._rows
        for packet in read_plan(self._spool, LISTED):
            refs = packet.unit.refs
            for ref, at in zip(refs, rows.find(_keys(refs)).tolist(), strict=True):
                if at >= 0 and rows.is_copy_of_unchanged(at, ref.source_uri):
                    detail = "a recording in an archive that has not changed has this id"
                    copy = replace(ref, problem="duplicate_id", problem_detail=detail)
                    if rows.find_one(key_of_ref(copy)) < 0:
                        yield copy, -1
                else:
                    yield ref, at

    def _compare(self) -> None:
        rows = self._rows
        places = [at for _, at in self._news()]
        changed = [at for at in places if at >= 0 and rows.live[at]]
        lost = rows.latest & rows.live & ~rows.is_copy & ~rows.seen
        noted = [key_of(name) for name in gone_recordings(self.storage, self.names)]
        lost &= ~np.isin(rows.keys, np.array(noted, f"S{KEY_BYTES}"))
        self._gone = np.flatnonzero(lost).tolist()
        self.changes = Changes(len(places) - len(changed), len(changed), len(self._gone))
        units = {rows.pointer(at)[0] for at in chain(self._gone, changed)} - self.committed
        self._withdrawn = units - rows.units_with_copies(units)

    def _names_of_gone(self) -> Iterator[tuple[str, int]]:
        """Id and position of the rows that are gone."""
        numbers = self._rows.row[self._gone]
        order = np.argsort(numbers)
        numbers, places = numbers[order], np.array(self._gone, np.int64)[order]
        first = 0
        for name in self.names if len(numbers) else ():
            for table in read_columns(self.storage, name, ["recording_id"]):
                here = slice(*np.searchsorted(numbers, [first, first + len(table)]).tolist())
                ids = table["recording_id"].take(pa.array(numbers[here] - first))
                yield from zip(ids.to_pylist(), places[here].tolist(), strict=True)
                first += len(table)


def _keys(refs: Sequence[RecordingRef]) -> np.ndarray:
    """[refs] keys of KEY_BYTES."""
    return np.array([key_of_ref(ref) for ref in refs], f"S{KEY_BYTES}")
