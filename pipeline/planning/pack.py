"""Recordings packed into bounded work units: ids from content, duplicates marked, borders of published parts drawn."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipeline.config import PlanConfig
from pipeline.schemas import RecordingRef, WorkUnit, content_of

# Rows of transcripts to expect from a recording: the borders of published parts are drawn before anything is heard.
SECONDS_PER_ROW = 15  # about half of a 30 s window
BYTES_PER_SECOND = 16_000  # undeclared length: between 16-bit wav (32,000) and mp3 at 64 kbit/s (8,000)
_json = json.JSONEncoder(check_circular=False).encode  # the text of json.dumps, a fifth faster


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """A unit in its plan. `retried`: in a round of retries, per recording, reason and samples of its dead letter."""

    unit: WorkUnit
    part: int = 0
    retried: tuple[tuple[str, int], ...] = ()


def mark_duplicates(refs: Iterable[RecordingRef]) -> Iterator[RecordingRef]:
    """The same refs; those whose id came before get the problem "duplicate_id", so that valid ids are unique.

    Memory: a 128-bit digest per recording, about 100 MB for a million.
    """
    seen: set[int] = set()
    for ref in refs:
        digest = int.from_bytes(hashlib.blake2b(ref.recording_id.encode(), digest_size=16).digest())
        if digest in seen:
            detail = "an earlier recording has this id" + (f"; {ref.problem}" if ref.problem else "")
            ref = replace(ref, problem="duplicate_id", problem_detail=detail)
        seen.add(digest)
        yield ref


def pack(refs: Iterable[RecordingRef], config: PlanConfig, *, retry: int = 0) -> Iterator[WorkUnit]:
    """Neighbouring recordings as units within all three bounds; one that exceeds a bound alone is a unit alone.

    A recording with a problem is not read: it has neither seconds nor bytes. `retry`: the round of retries, or 0.
    """
    bound_bytes = config.unit_megabytes * 1_000_000
    held: list[RecordingRef] = []
    seconds, size = 0.0, 0
    copies: Counter[str] = Counter()
    for ref in refs:
        more_seconds, more_size = (0.0, 0) if ref.problem else (declared_seconds(ref) or 0.0, ref.size)
        if held and (
            len(held) >= config.unit_recordings
            or seconds + more_seconds > config.unit_seconds
            or size + more_size > bound_bytes
        ):
            yield _unit(held, retry, copies)
            held, seconds, size = [], 0.0, 0
        held.append(ref)
        seconds, size = seconds + more_seconds, size + more_size
    if held:
        yield _unit(held, retry, copies)


def with_parts(units: Iterable[WorkUnit], part_rows: int) -> Iterator[PlannedUnit]:
    """Draw the borders of the published parts: a part takes units until `part_rows` rows are to be expected of it."""
    expected = 0
    for unit in units:
        yield PlannedUnit(unit, part=expected // part_rows)
        expected += sum(_expected_rows(ref) for ref in unit.refs)


def unit_id(refs: Iterable[RecordingRef], *, retry: int = 0, copy: int = 0) -> str:
    """16 hex digits of the SHA-256 of all that the refs say, the round of retries and how many equal units came."""
    digest = hashlib.sha256(f"{retry} {copy}".encode())
    for ref in refs:
        digest.update(b"\n" + _json(content_of(ref)).encode())
    return digest.hexdigest()[:16]


def declared_seconds(ref: RecordingRef) -> float | None:
    """Seconds of audio as far as the source says: of the selected part, else of the whole; None where it does not."""
    if ref.start_ms is not None and ref.end_ms is not None:
        return (ref.end_ms - ref.start_ms) / 1000
    return ref.seconds


def _unit(refs: list[RecordingRef], retry: int, copies: Counter[str]) -> WorkUnit:
    name = unit_id(refs, retry=retry)
    if all(ref.problem == "duplicate_id" for ref in refs):  # only such a unit can come again, word for word
        copies[name] += 1
        name = unit_id(refs, retry=retry, copy=copies[name] - 1)
    return WorkUnit(name, tuple(refs))


def _expected_rows(ref: RecordingRef) -> int:
    if ref.problem:
        return 0
    seconds = declared_seconds(ref)
    return max(1, math.ceil((ref.size / BYTES_PER_SECOND if seconds is None else seconds) / SECONDS_PER_ROW))
