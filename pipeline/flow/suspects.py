"""Runs each recording of a crashing unit alone; one that crashes again is dead-lettered."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

from pipeline.audio.stage import declared_samples, describe
from pipeline.config import ConfigError
from pipeline.missing import missing_package
from pipeline.schemas import (
    AUDIO_COLUMNS,
    PIECE_DECODED,
    POSITION,
    SPAN,
    START,
    UNIT_LEFT,
    DecodedRecording,
    Place,
    Problem,
    RecordingRef,
    SegmentResult,
    WorkUnit,
    recordings_of,
    to_table,
)
from pipeline.storage.base import OutputError
from pipeline.storage.errors import StorageError, storage_error

_TASK = UNIT_LEFT.append(pa.field("start", POSITION))  # the input of DecodeStage
MAX_BAD_WINDOWS = 3  # of a piece that may crash the model one by one; then the rest of it has no answer either
log = logging.getLogger(__name__)

MISSING = "ModuleNotFoundError: "
_OS_ERROR = re.compile(r"\w*Error: \[Errno (\d+)\] (.*?)(?:: '([^']*)')?$")  # the last line of a traceback


def users_error(error: Exception) -> Exception | None:
    """Why an actor ended, if no bug is the reason: ConfigError, OutputError, or StorageError (also of a full disk).

    For actors that we start, Ray keeps the exception itself as `cause`. For actors of Ray Data it keeps only the text
    of the traceback.
    """
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, ModuleNotFoundError):
        return ConfigError(missing_package(str(cause)))
    if isinstance(cause, ConfigError | OutputError):
        return type(cause)(_own(cause))
    if isinstance(cause, StorageError):
        return StorageError(_own(cause), cause.kind)
    return (cause and storage_error(cause)) or _from_traceback(str(error))


def _own(error: Exception) -> str:
    """The message without the lines that Ray Data appends to it."""
    return str(error).partition("\n")[0]


def _from_traceback(trace: str) -> Exception | None:
    """The last exception in a traceback that `users_error` returns."""
    for line in reversed(trace.splitlines()):
        os_error = _OS_ERROR.match(line)
        if os_error and (failed := storage_error(OSError(int(os_error[1]), os_error[2], os_error[3]))):
            return failed
        for kind in (ConfigError, OutputError, StorageError):
            start = f"{kind.__module__}.{kind.__name__}: "
            if line.startswith(start):
                return kind(line.removeprefix(start))
        if line.startswith(MISSING):
            return ConfigError(missing_package(line.removeprefix(MISSING)))
    return None


class Crash(Exception):
    """A process died, failed or gave no answer in time. `reason` is "crashed" or "timeout"."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Cell:
    """Runs one stage in a process of its own. It starts when it is needed, and again after a crash.

    start: makes the actor of the stage, whose `__call__` takes and returns a table. timeout_seconds: for one call.
    """

    def __init__(self, name: str, start: Callable[[], Any], timeout_seconds: float) -> None:
        self._name, self._start, self._timeout = name, start, timeout_seconds
        self._actor: Any = None

    def call(self, table: pa.Table) -> pa.Table:
        """The result of the stage. Raises Crash, or an error that the user can repair, as `users_error` returns it."""
        if self._actor is None:
            self._actor = self._start()
            ray.get(self._actor.__ray_ready__.remote())
        try:
            return ray.get(self._actor.__call__.remote(table), timeout=self._timeout)
        except RayTaskError as err:
            self.end()
            if repairable := users_error(err):
                raise repairable from None
            raise Crash("crashed", f"the {self._name} failed: {str(err).strip().splitlines()[-1][:300]}") from None
        except (RayActorError, NodeDiedError, OutOfMemoryError) as err:
            self.end()
            raise Crash("crashed", f"the process died: {' '.join(str(err).split())[:300]}") from None
        except GetTimeoutError:
            self.end()
            raise Crash("timeout", f"no answer after {self._timeout:g} s") from None

    def end(self) -> None:
        """Kill the process, if it runs."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None


def run_alone(
    units: Iterable[tuple[WorkUnit, Place]], decoder: Cell, replica: Cell
) -> Iterator[tuple[WorkUnit, Place, list[DecodedRecording], list[dict[str, Any]]]]:
    """Run the recordings of each unit one by one. Yields the arguments of CommitStage.commit_row for each unit."""
    try:
        for unit, place in units:
            text = "unit %s crashed its process; its %d recordings run one by one"
            log.warning(text, unit.unit_id, len(unit.refs), extra={"fields": {"unit": unit.unit_id}})
            recordings: list[DecodedRecording] = []
            results: list[dict[str, Any]] = []
            for index, ref in enumerate(unit.refs):
                recording, its_results = _run_recording(unit.unit_id, place.recording(index), ref, decoder, replica)
                recordings.append(recording)
                results.extend(result | {"recording_index": index} for result in its_results)
            yield unit, place, recordings, results
    finally:
        decoder.end()
        replica.end()


def _run_recording(
    unit_id: str, place: Place, ref: RecordingRef, decoder: Cell, replica: Cell
) -> tuple[DecodedRecording, list[dict[str, Any]]]:
    """Decode and recognise one recording. What was recognised before a crash is kept."""
    pieces: list[dict[str, Any]] = []
    start: dict[str, Any] | None = asdict(START)
    while start is not None:
        task = {"unit_id": unit_id, "place": asdict(place), "start": start}
        stage = "decode"
        try:
            decoded = _twice(decoder, to_table([task], _TASK))
            stage = "model"
            pieces.append(_recognised(replica, decoded))
        except Crash as err:
            fields = {"unit": unit_id, "recording": ref.recording_id, "reason": err.reason}
            log.warning("recording %s: %s", ref.recording_id, err.detail, extra={"fields": fields})
            return _up_to(start, ref, pieces, Problem(err.reason, stage, err.detail)), _results(pieces)
        start = pieces[-1]["next"]
    return recordings_of(pieces)[0], _results(pieces)


def _twice(cell: Cell, table: pa.Table) -> pa.Table:
    """The result of a stage. After a crash it runs once more: the machine may be at fault. Raises the second Crash."""
    try:
        return cell.call(table)
    except Crash as err:
        if err.reason != "crashed":
            raise
    return cell.call(table)


def _recognised(replica: Cell, decoded: pa.Table) -> dict[str, Any]:
    """A row of PIECE_RECOGNISED.

    If the piece crashes the model, its windows run one by one, and those that crash it have no answer. Raises Crash if
    that is so for all of them.
    """
    try:
        return dict(_twice(replica, decoded).to_pylist()[0])
    except Crash as err:
        crash = err
    (row,) = decoded.to_pylist()
    if len(row["segments"]) < 2:
        raise crash
    results, failed = [], 0
    for segment in row["segments"]:
        try:
            if failed >= MAX_BAD_WINDOWS:
                raise crash
            results += replica.call(to_table([row | {"segments": [segment]}], PIECE_DECODED)).to_pylist()[0]["results"]
        except Crash as err:
            failed += 1
            results.append(_no_answer(segment, err.detail))
    if failed == len(row["segments"]):
        raise crash
    known = {name: value for name, value in row.items() if name not in AUDIO_COLUMNS}
    return known | {"results": results}


def _no_answer(segment: dict[str, Any], error: str) -> dict[str, Any]:
    """A row of schemas.RESULT for a window without an answer."""
    return {name: segment[name] for name, _ in SPAN} | asdict(SegmentResult(text=None, error=error))


def _up_to(
    start: dict[str, Any], ref: RecordingRef, pieces: list[dict[str, Any]], problem: Problem
) -> DecodedRecording:
    """A recording of which a piece crashes the process. start: of that piece. pieces: those before it."""
    known = DecodedRecording(language=ref.language, reference=ref.reference, metadata=ref.metadata)
    if problem.stage == "model" or pieces:  # reading it did not crash, so it is safe in this process
        with contextlib.suppress(Exception):
            known = describe(ref)
    if not pieces:
        return replace(known, problem=problem)
    heard, declared = start["before"] + start["sample"], declared_samples(ref)
    return replace(known, samples=max(heard, declared), damage=problem, lost_samples=max(0, declared - heard))


def _results(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [result for piece in pieces for result in piece["results"]]
