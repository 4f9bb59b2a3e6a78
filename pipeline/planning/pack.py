"""Packs recordings into bounded units, gives units their ids, marks duplicates, assigns units to published parts."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

from pipeline.config import PlanConfig, public
from pipeline.planning.lengths import expected_seconds
from pipeline.schemas import RecordingRef, WorkUnit, content_of
from pipeline.sources.access.ids import IdSet

# Parts are planned before anything is recognised, so their rows are estimated from the length of the recordings.
SECONDS_PER_ROW = 15  # seconds of audio in one row of transcripts: about half of a 30 s window
UNITS_EACH = 4  # at least so many units for each replica, so that all are busy to the end
HALVINGS = 24  # of the limit of seconds, where a source is too small for that
UNIT_DIGITS = 16  # hex digits of a unit id
Pointer = tuple[str, int]  # a result: the unit, and the index of the recording in it
_json = json.JSONEncoder(check_circular=False).encode  # same text as json.dumps, in 4/5 of the time


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """A unit and its place in the published tables.

    part: number of the transcripts/part-*.parquet with its rows. None: earlier plans have its recordings, and its
    results replace theirs at their places. earlier: only then; for each recording the result before this one.
    """

    unit: WorkUnit
    part: int | None = 0
    earlier: tuple[Pointer, ...] = ()


def mark_duplicates(refs: Iterable[RecordingRef]) -> Iterator[RecordingRef]:
    """The same refs, but all except the first with the same id get the problem "duplicate_id".

    Memory: at most 60 bytes for each recording.
    """
    ids = IdSet()
    for ref in refs:
        if not ids.add(ref.recording_id):
            detail = "an earlier recording has this id" + (f"; {ref.problem}" if ref.problem else "")
            ref = replace(ref, problem="duplicate_id", problem_detail=detail)
        yield ref


def pack_units(
    refs: Iterable[RecordingRef], config: PlanConfig, *, number: int = 0, at_least: int = 0
) -> Iterator[WorkUnit]:
    """Join neighbouring recordings to units that stay within the three limits of `config`.

    A recording that exceeds a limit by itself is a unit of its own. A recording with a problem will not be read, so it
    counts zero seconds and bytes. Where seconds are not declared they are estimated (lengths.py). number: of the round;
    0 for the plan itself. at_least: so many units, if there are as many recordings; a source with fewer units gets a
    smaller limit of seconds. Memory: the recordings of twice so many units.
    """
    copies: Counter[str] = Counter()
    refs = iter(refs)
    head: list[RecordingRef] = []
    while at_least and _count(head, config, config.unit_seconds) <= at_least:
        more = list(islice(refs, max(len(head), config.unit_recordings)))
        if not more:
            break
        head += more
    limit = config.unit_seconds
    if at_least and _count(head, config, limit) <= at_least:  # the head is all there is
        limit = _smaller_limit(head, config, at_least)
    for group in _groups(chain(head, refs), config, limit):
        yield _unit(group, number, copies)


def _groups(refs: Iterable[RecordingRef], config: PlanConfig, limit: float) -> Iterator[list[RecordingRef]]:
    """The recordings of each unit. limit: seconds of a unit."""
    limit_bytes = config.unit_megabytes * 1_000_000
    waiting: list[RecordingRef] = []  # recordings of the next unit
    seconds, size = 0.0, 0
    for ref in refs:
        more_seconds, more_size = expected_seconds(ref), 0 if ref.problem else ref.size
        if waiting and (
            len(waiting) >= config.unit_recordings or seconds + more_seconds > limit or size + more_size > limit_bytes
        ):
            yield waiting
            waiting, seconds, size = [], 0.0, 0
        waiting.append(ref)
        seconds, size = seconds + more_seconds, size + more_size
    if waiting:
        yield waiting


def _count(refs: list[RecordingRef], config: PlanConfig, limit: float) -> int:
    """How many units these recordings make."""
    return sum(1 for _ in _groups(refs, config, limit))


def _smaller_limit(refs: list[RecordingRef], config: PlanConfig, at_least: int) -> float:
    """About the highest limit of seconds that gives `at_least` units, or as many as there can be."""
    wanted = min(at_least, _count(refs, config, 0.0))
    low, high = 0.0, config.unit_seconds
    if _count(refs, config, high) >= wanted:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _count(refs, config, middle) >= wanted else (low, middle)
    return low


def with_parts(units: Iterable[WorkUnit], part_rows: int, *, first: int = 0) -> Iterator[PlannedUnit]:
    """Assign units to published parts, in order. A part is full when about `part_rows` rows are expected in it.

    first: number of the first part.
    """
    expected = 0  # rows of all units so far
    for unit in units:
        yield PlannedUnit(unit, part=first + expected // part_rows)
        expected += sum(_expected_rows(ref) for ref in unit.refs)


def unit_id(refs: Iterable[RecordingRef], *, number: int = 0, copy: int = 0) -> str:
    """First UNIT_DIGITS hex digits of a SHA-256 of all fields of the refs and two numbers.

    number: of the round. copy: how many units with the same content come before this one.
    """
    digest = hashlib.sha256(f"{number} {copy}".encode())
    for ref in refs:
        digest.update(b"\n" + _json(content_of(ref)).encode())
    return digest.hexdigest()[:UNIT_DIGITS]


def content_hash(ref: RecordingRef) -> int:
    """64 bits of a hash of what the source says about a recording: all fields except the detail of its problem.

    The signature of an address does not count: a manifest has another one every day.
    """
    fields = content_of(ref)[:-1]
    uri = public(ref.source_uri)
    text = _json(fields if uri == ref.source_uri else content_of(replace(ref, source_uri=uri))[:-1])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def replacing_units(
    chosen: Iterable[tuple[RecordingRef, Pointer]], config: PlanConfig, number: int, *, at_least: int = 0
) -> Iterator[PlannedUnit]:
    """Pack recordings that earlier plans have too into units of round `number`. Each comes with the result before.

    at_least: as in `pack_units`.
    """
    waiting: dict[str, Pointer] = {}  # recordings that `pack_units` has taken, but not yet put into a unit

    def refs() -> Iterator[RecordingRef]:
        for ref, earlier in chosen:
            waiting[ref.recording_id] = earlier
            yield ref

    for unit in pack_units(refs(), config, number=number, at_least=at_least):
        yield PlannedUnit(unit, None, tuple(waiting.pop(ref.recording_id) for ref in unit.refs))


def _unit(refs: list[RecordingRef], number: int, copies: Counter[str]) -> WorkUnit:
    """A unit of `refs`. copies: units of duplicates so far, by their id as a first copy."""
    first_id = unit_id(refs, number=number)
    if not all(ref.problem == "duplicate_id" for ref in refs):
        return WorkUnit(first_id, tuple(refs))
    # Only a unit of duplicates can appear several times with the same content.
    copies[first_id] += 1
    return WorkUnit(unit_id(refs, number=number, copy=copies[first_id] - 1), tuple(refs))


def _expected_rows(ref: RecordingRef) -> int:
    return 0 if ref.problem else max(1, math.ceil(expected_seconds(ref) / SECONDS_PER_ROW))
