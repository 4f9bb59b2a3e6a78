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

from pipeline.audio.stage import described
from pipeline.config import ConfigError
from pipeline.schemas import (
    POSITION,
    START,
    TODO,
    DecodedRecording,
    Place,
    Problem,
    RecordingRef,
    UnreachableError,
    WorkUnit,
    recordings_of,
    to_table,
)
from pipeline.storage.base import BROKEN, FULL, OutputError

_TASK = TODO.append(pa.field("start", POSITION))  # what DecodeStage takes
log = logging.getLogger(__name__)

_OS_ERROR = re.compile(r"\w*Error: \[Errno (\d+)\] (.*?)(?:: '([^']*)')?$")  # as Python prints it


def users_error(error: Exception) -> Exception | None:
    """The cause of an actor's end, where a user can mend it: ConfigError, OutputError, a store or a disk that fails.

    Ray keeps the exception itself as `cause` for actors that we start. Of the actors of Ray Data only the traceback
    is left, as text.
    """
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, UnreachableError):
        return ConfigError(f"source.uri: {cause}")
    if isinstance(cause, ConfigError | OutputError):
        return cause
    if isinstance(cause, OSError):
        return _mendable(cause.errno or 0, cause.strerror or str(cause), cause.filename)
    return _from_traceback(str(error))


def _from_traceback(trace: str) -> Exception | None:
    for line in reversed(trace.splitlines()):
        if broken := _OS_ERROR.match(line):
            mendable = _mendable(int(broken[1]), broken[2], broken[3])
            if mendable:
                return mendable
        for kind in (ConfigError, OutputError, UnreachableError):
            start = f"{kind.__module__}.{kind.__name__}: "
            if line.startswith(start):
                message = line.removeprefix(start)
                return ConfigError(f"source.uri: {message}") if kind is UnreachableError else kind(message)
    return None


def _mendable(number: int, message: str, name: str | None) -> OSError | None:
    """The error of a full disk, or of a store of the output. Errors of sources are UnreachableError or dead letters."""
    if number in FULL or (number in BROKEN and (name or "").startswith("s3://")):
        return OSError(number, message, name)
    return None


class Crash(Exception):
    """The process died or gave no answer in time. `reason` is "crashed" or "timeout"."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Cell:
    """A process of its own for one stage, started when needed and again after a crash.

    start: makes the actor of a stage (`__call__`: table in, table out). Errors of its start are raised.
    """

    def __init__(self, name: str, start: Callable[[], Any], timeout_seconds: float) -> None:
        self._name, self._start, self._timeout = name, start, timeout_seconds
        self._actor: Any = None

    def call(self, table: pa.Table) -> pa.Table:
        """What the stage makes of the table. Raises Crash, or what the stage raises."""
        if self._actor is None:
            self._actor = self._start()
            ray.get(self._actor.__ray_ready__.remote())
        try:
            return ray.get(self._actor.__call__.remote(table), timeout=self._timeout)
        except RayTaskError as err:
            self.end()
            if known := users_error(err):
                raise known from None
            raise Crash("crashed", f"the {self._name} failed: {str(err).strip().splitlines()[-1][:300]}") from None
        except (RayActorError, NodeDiedError, OutOfMemoryError) as err:
            self.end()
            raise Crash("crashed", f"the process died: {' '.join(str(err).split())[:300]}") from None
        except GetTimeoutError:
            self.end()
            raise Crash("timeout", f"no end after {self._timeout:g} s") from None

    def end(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None


def alone(
    units: Iterable[tuple[WorkUnit, Place]], decoder: Cell, replica: Cell
) -> Iterator[tuple[WorkUnit, Place, list[DecodedRecording], list[dict[str, Any]]]]:
    """Every unit with its place, its recordings and the model's results: what CommitStage.commit_row takes."""
    try:
        for unit, place in units:
            log.warning("unit %s crashed its process; its %d recordings run alone", unit.unit_id, len(unit.refs))
            recordings: list[DecodedRecording] = []
            results: list[dict[str, Any]] = []
            for index, ref in enumerate(unit.refs):
                recording, own = _recording(unit.unit_id, place.recording(index), ref, decoder, replica)
                recordings.append(recording)
                results.extend(result | {"recording_index": index} for result in own)
            yield unit, place, recordings, results
    finally:
        decoder.end()
        replica.end()


def _recording(
    unit_id: str, place: Place, ref: RecordingRef, decoder: Cell, replica: Cell
) -> tuple[DecodedRecording, list[dict[str, Any]]]:
    """One recording alone. A second attempt follows a crash: one crash may be the machine's fault."""
    for last in (False, True):
        stage = "decode"
        try:
            pieces: list[dict[str, Any]] = []
            start: dict[str, Any] | None = asdict(START)
            while start is not None:
                stage = "decode"
                task = {"unit_id": unit_id, "place": asdict(place), "start": start}
                decoded = decoder.call(to_table([task], _TASK))
                stage = "model"
                pieces += replica.call(decoded).to_pylist()
                start = pieces[-1]["next"]
            return recordings_of(pieces)[0], [result for piece in pieces for result in piece["results"]]
        except Crash as err:
            log.warning("recording %s: %s", ref.recording_id, err.detail)
            crash = err
        if last or crash.reason != "crashed":
            break
    known = DecodedRecording(language=ref.language, reference=ref.reference, metadata=ref.metadata)
    if stage == "model":  # it was read and decoded a moment ago: reading it here again is safe
        with contextlib.suppress(Exception):
            known = described(ref)
    return replace(known, problem=Problem(crash.reason, stage, crash.detail)), []
