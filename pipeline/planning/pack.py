"""Packs recordings into bounded units, gives units their ids, marks duplicates, assigns units to published parts."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipeline.config import PlanConfig, public
from pipeline.schemas import RecordingRef, WorkUnit, content_of
from pipeline.sources.access.ids import IdSet

# Parts are planned before anything is recognised, so their rows are estimated from the length of the recordings.
SECONDS_PER_ROW = 15  # seconds of audio in one row of transcripts: about half of a 30 s window
BYTES_PER_SECOND = 16_000  # for an undeclared length: between 16-bit wav (32,000) and mp3 at 64 kbit/s (8,000)
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


def pack_units(refs: Iterable[RecordingRef], config: PlanConfig, *, number: int = 0) -> Iterator[WorkUnit]:
    """Join neighbouring recordings to units that stay within the three limits of `config`.

    A recording that exceeds a limit by itself is a unit of its own. A recording with a problem will not be read, so it
    counts zero seconds and bytes. number: of the round; 0 for the plan itself.
    """
    limit_bytes = config.unit_megabytes * 1_000_000
    waiting: list[RecordingRef] = []  # recordings of the next unit
    seconds, size = 0.0, 0
    copies: Counter[str] = Counter()
    for ref in refs:
        more_seconds, more_size = (0.0, 0) if ref.problem else (declared_seconds(ref) or 0.0, ref.size)
        if waiting and (
            len(waiting) >= config.unit_recordings
            or seconds + more_seconds > config.unit_seconds
            or size + more_size > limit_bytes
        ):
            yield _unit(waiting, number, copies)
            waiting, seconds, size = [], 0.0, 0
        waiting.append(ref)
        seconds, size = seconds + more_seconds, size + more_size
    if waiting:
        yield _unit(waiting, number, copies)


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
    chosen: Iterable[tuple[RecordingRef, Pointer]], config: PlanConfig, number: int
) -> Iterator[PlannedUnit]:
    """Pack recordings that earlier plans have too into units of round `number`. Each comes with the result before."""
    waiting: dict[str, Pointer] = {}  # recordings that `pack_units` has taken, but not yet put into a unit

    def refs() -> Iterator[RecordingRef]:
        for ref, earlier in chosen:
            waiting[ref.recording_id] = earlier
            yield ref

    for unit in pack_units(refs(), config, number=number):
        yield PlannedUnit(unit, None, tuple(waiting.pop(ref.recording_id) for ref in unit.refs))


def declared_seconds(ref: RecordingRef) -> float | None:
    """Seconds of audio that the source declares: of the selected range, else of the whole. None: not declared."""
    if ref.start_ms is not None and ref.end_ms is not None:
        return (ref.end_ms - ref.start_ms) / 1000
    return ref.seconds


def _unit(refs: list[RecordingRef], number: int, copies: Counter[str]) -> WorkUnit:
    """A unit of `refs`. copies: units of duplicates so far, by their id as a first copy."""
    first_id = unit_id(refs, number=number)
    if not all(ref.problem == "duplicate_id" for ref in refs):
        return WorkUnit(first_id, tuple(refs))
    # Only a unit of duplicates can appear several times with the same content.
    copies[first_id] += 1
    return WorkUnit(unit_id(refs, number=number, copy=copies[first_id] - 1), tuple(refs))


def _expected_rows(ref: RecordingRef) -> int:
    if ref.problem:
        return 0
    seconds = declared_seconds(ref)
    return max(1, math.ceil((ref.size / BYTES_PER_SECOND if seconds is None else seconds) / SECONDS_PER_ROW))
