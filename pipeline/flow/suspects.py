"""Units that broke their process again and again: every recording alone, and who breaks it then is the culprit."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

from pipeline.audio.stage import START, Heard, Problem
from pipeline.config import ConfigError
from pipeline.output.stage import recordings_of
from pipeline.schemas import RecordingRef, UnreachableError, WorkUnit, unit_from_json, unit_to_json
from pipeline.sources.formats import read_recording
from pipeline.storage.base import BROKEN, FULL, OutputError

log = logging.getLogger(__name__)

_OS_ERROR = re.compile(r"\w*Error: \[Errno (\d+)\] (.*?)(?:: '([^']*)')?$")  # as Python prints it


def users_error(trace: str) -> Exception | None:
    """What ended an actor, by its traceback, if a user can mend it: ConfigError, OutputError, a silent store, a full
    disk.
    """
    for line in reversed(trace.splitlines()):
        if broken := _OS_ERROR.match(line):
            number, told, name = int(broken[1]), broken[2], broken[3]
            if number in FULL or (number in BROKEN and (name or "").startswith("s3://")):  # sources are told otherwise
                return OSError(number, told, name)
        for error in (ConfigError, OutputError, UnreachableError):
            start = f"{error.__module__}.{error.__name__}: "
            if line.startswith(start):
                told = line.removeprefix(start)
                return ConfigError(f"source.uri: {told}") if error is UnreachableError else error(told)
    return None


class Broke(Exception):
    """The process died or gave no answer in time; `reason` is "crashed" or "timeout"."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Cell:
    """A process of its own for one stage, started when needed and again after it broke.

    start: makes the actor of a stage (`__call__`: table in, table out). Errors of its start are raised.
    """

    def __init__(self, name: str, start: Callable[[], Any], timeout_seconds: float) -> None:
        self._name, self._start, self._timeout = name, start, timeout_seconds
        self._actor: Any = None

    def call(self, table: pa.Table) -> pa.Table:
        """What the stage makes of the table. Raises Broke, or what the stage raises."""
        if self._actor is None:
            self._actor = self._start()
            ray.get(self._actor.__ray_ready__.remote())
        try:
            return ray.get(self._actor.__call__.remote(table), timeout=self._timeout)
        except RayTaskError as err:
            self.end()
            if known := users_error(str(err)):
                raise known from None
            raise Broke("crashed", f"the {self._name} failed: {str(err).strip().splitlines()[-1][:300]}") from None
        except (RayActorError, NodeDiedError, OutOfMemoryError) as err:
            self.end()
            raise Broke("crashed", f"the process died: {' '.join(str(err).split())[:300]}") from None
        except GetTimeoutError:
            self.end()
            raise Broke("timeout", f"no end after {self._timeout:g} s") from None

    def end(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None


def alone(
    units: list[str], decoder: Cell, replica: Cell
) -> Iterator[tuple[WorkUnit, list[Heard], list[dict[str, Any]]]]:
    """Every unit with what was heard of its recordings and the model's results: what Finisher.commit takes."""
    try:
        for text in units:
            unit = unit_from_json(text)
            log.warning("unit %s broke its process; its %d recordings are tried alone", unit.unit_id, len(unit.refs))
            recordings: list[Heard] = []
            results: list[dict[str, Any]] = []
            for index, ref in enumerate(unit.refs):
                heard, own = _recording(unit.unit_id, ref, decoder, replica)
                recordings.append(heard)
                results.extend(result | {"recording_index": index} for result in own)
            yield unit, recordings, results
    finally:
        decoder.end()
        replica.end()


def _recording(unit_id: str, ref: RecordingRef, decoder: Cell, replica: Cell) -> tuple[Heard, list[dict[str, Any]]]:
    """Who dies twice while it is alone is the culprit: one death may be the machine's."""
    for last in (False, True):
        stage = "decode"
        try:
            unit, start = unit_to_json(WorkUnit(unit_id, (ref,))), START.to_json()
            results: list[dict[str, Any]] = []
            while start is not None:
                stage = "decode"
                decoded = decoder.call(pa.table({"unit": [unit], "start": [start]}))
                stage = "model"
                (part,) = replica.call(decoded).to_pylist()
                results += part["results"]
                start = part["next"]
            return recordings_of([part])[0], results
        except Broke as err:
            log.warning("recording %s: %s", ref.recording_id, err.detail)
            broke = err
        if last or broke.reason != "crashed":
            break
    known = Heard(language=ref.language, reference=ref.reference, metadata=ref.metadata)
    if stage == "model":  # it was read and decoded a moment ago: reading it here again is safe
        with contextlib.suppress(Exception):
            known = _read(ref)
    return replace(known, problem=Problem(broke.reason, stage, broke.detail)), []


def _read(ref: RecordingRef) -> Heard:
    """What the source says of it, sidecars too."""
    found = read_recording(ref)
    if not isinstance(found.audio, bytes):
        found.audio.close()
    return Heard(language=found.language, reference=found.reference, metadata=found.metadata)
