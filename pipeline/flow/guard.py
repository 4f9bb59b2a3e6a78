"""The stages as the chain runs them: with a mark for every attempt and an end to every unit that hangs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa

from pipeline.audio.stage import START, Decoder, Position, idle_row, position_from_json
from pipeline.config import ConfigError, RunConfig
from pipeline.output.attempts import Attempts
from pipeline.output.pieces import saved_parts
from pipeline.schemas import UNIT_DECODED, UNIT_TRANSCRIBED, UnreachableError, to_table
from pipeline.sources.access.remote import retries
from pipeline.storage.base import OutputError, open_storage

log = logging.getLogger(__name__)


class GuardedDecoder:
    """One row with a column `unit` in, one row of UNIT_DECODED out for each of its parts.

    A unit whose decoding broke its process before is a suspect: one row that says so. Parts that an earlier run has
    saved are rows that say so: row k is part k whatever is saved, since Ray takes the rows of an actor that is started
    again for those that it has already seen of the actor that was killed.
    """

    def __init__(self, config: dict[str, Any], *, window_seconds: float, languages: Collection[str]) -> None:
        run = RunConfig.model_validate(config)
        self.decoder = Decoder(run, window_seconds=window_seconds, languages=languages)
        self.storage = open_storage(run.output.uri, create=False, config=run.storage)
        self.attempts = Attempts(self.storage, "decode")
        self.timeout_seconds = run.compute.unit_timeout_seconds

    def __call__(self, units: pa.Table) -> Iterator[pa.Table]:
        for row in self._parts(units["unit"][0].as_py()):
            yield to_table([row | {"retries": json.dumps(drained(self.storage.counters, retries))}], UNIT_DECODED)

    def _parts(self, text: str) -> Iterator[dict[str, Any]]:
        unit_id = json.loads(text)["unit_id"]
        saved = saved_parts(self.storage, unit_id)
        at: Position | None = START
        number = 0
        parts: Iterator[dict[str, Any]] | None = None  # from `number` on
        while at is not None:
            if number in saved:
                yield idle_row(text, unit_id, number, at, saved[number], saved=True)
                at, parts = saved[number], None
            else:
                parts = parts or self.decoder.parts(text, at, number)
                row = self._guarded(f"{unit_id}.{number}", parts)
                if row is None:
                    yield idle_row(text, unit_id, number, at, None, suspect=True)
                    return
                yield row
                at = position_from_json(row["next"]) if row["next"] else None
            number += 1

    def _guarded(self, name: str, parts: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        """The next part, within the time that it is given; None for a suspect, and where the decoder itself fails.

        name: of the part. Parts before it are decoded again after a death, and their end is not that of this one.
        """
        if not self.attempts.begin(name):
            return None
        watchdog = threading.Timer(self.timeout_seconds, self._give_up, [name])
        watchdog.daemon = True
        watchdog.start()
        try:
            return next(parts)
        except (ConfigError, OutputError, UnreachableError):
            raise
        except Exception:  # it is found out alone which recording that was
            log.exception("unit %s: the decoder failed", name)
            return None
        finally:
            watchdog.cancel()
            self.attempts.end(name)

    def _give_up(self, name: str) -> None:
        """A decoder that hangs in native code can only be ended with its process."""
        log.error("unit %s: still decoding after %s s", name, self.timeout_seconds)
        self.attempts.condemn(name)
        os._exit(1)


class GuardedReplica:
    """One row of UNIT_DECODED in, one of UNIT_TRANSCRIBED out; several calls in flight share the replica's engine."""

    def __init__(self, config: dict[str, Any]) -> None:
        from pipeline.model.stage import Replica

        run = RunConfig.model_validate(config)
        self.replica = Replica(config)
        self.storage = open_storage(run.output.uri, create=False, config=run.storage)
        self.attempts = Attempts(self.storage, "model")
        self.timeout_seconds = run.compute.unit_timeout_seconds

    async def __call__(self, units: pa.Table) -> pa.Table:
        answered = await self._answered(units)
        retried = Counter(json.loads(answered["retries"][0].as_py())) + drained(self.storage.counters)
        index = answered.schema.get_field_index("retries")
        return answered.set_column(index, "retries", pa.array([json.dumps(retried)]))

    async def _answered(self, units: pa.Table) -> pa.Table:
        if units["suspect"][0].as_py() or units["saved"][0].as_py():
            return _untouched(units)
        name = f"{units['unit_id'][0].as_py()}.{units['part'][0].as_py()}"
        if not await asyncio.to_thread(self.attempts.begin, name):
            return _untouched(units, suspect=True)
        try:
            return await asyncio.wait_for(self.replica(units), self.timeout_seconds)
        except TimeoutError:
            log.error("unit %s: no answer after %s s", name, self.timeout_seconds)
            return _untouched(units, suspect=True)
        finally:
            await asyncio.to_thread(self.attempts.end, name)


def drained(*counters: Counter[str]) -> Counter[str]:
    """What was counted since the last call."""
    counts = sum(counters, Counter[str]())
    for counter in counters:
        counter.clear()
    return counts


def _untouched(units: pa.Table, **marks: bool) -> pa.Table:
    rows = units.drop_columns(["segments"]).to_pylist()
    return to_table([row | {"results": []} | marks for row in rows], UNIT_TRANSCRIBED)
