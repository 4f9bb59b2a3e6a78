"""The stages as the chain runs them: with a mark for every attempt and an end to every unit that hangs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from pipeline.attempts import Attempts
from pipeline.config import RunConfig
from pipeline.schemas import UNIT_DECODED, UNIT_TRANSCRIBED, to_table
from pipeline.storage import open_storage

log = logging.getLogger(__name__)


class GuardedDecoder:
    """One row with a column `unit` in, one row of UNIT_DECODED out; a suspect passes through untouched."""

    def __init__(self, config: dict[str, Any], *, window_seconds: float, languages: Collection[str]) -> None:
        from pipeline.decode import Decoder

        run = RunConfig.model_validate(config)
        self.decoder = Decoder(run, window_seconds=window_seconds, languages=languages)
        self.attempts = Attempts(open_storage(run.output.uri, create=False), "decode")
        self.timeout_seconds = run.compute.unit_timeout_seconds

    def __call__(self, units: pa.Table) -> pa.Table:
        text = units["unit"][0].as_py()
        unit_id = json.loads(text)["unit_id"]
        if not self.attempts.begin(unit_id):
            row = {"unit_id": unit_id, "unit": text, "recordings": "[]", "suspect": True, "segments": []}
            return to_table([row], UNIT_DECODED)
        watchdog = threading.Timer(self.timeout_seconds, self._give_up, [unit_id])
        watchdog.daemon = True
        watchdog.start()
        try:
            return self.decoder(units)
        finally:
            watchdog.cancel()
            self.attempts.end(unit_id)

    def _give_up(self, unit_id: str) -> None:
        """A decoder that hangs in native code can only be ended with its process."""
        log.error("unit %s: still decoding after %s s", unit_id, self.timeout_seconds)
        self.attempts.condemn(unit_id)
        os._exit(1)


class GuardedReplica:
    """One row of UNIT_DECODED in, one of UNIT_TRANSCRIBED out; several calls in flight share the replica's engine."""

    def __init__(self, config: dict[str, Any]) -> None:
        from pipeline.model.replica import Replica

        run = RunConfig.model_validate(config)
        self.replica = Replica(config)
        self.attempts = Attempts(open_storage(run.output.uri, create=False), "model")
        self.timeout_seconds = run.compute.unit_timeout_seconds

    async def __call__(self, units: pa.Table) -> pa.Table:
        unit_id = units["unit_id"][0].as_py()
        if units["suspect"][0].as_py() or not await asyncio.to_thread(self.attempts.begin, unit_id):
            return _suspected(units)
        try:
            return await asyncio.wait_for(self.replica(units), self.timeout_seconds)
        except TimeoutError:
            log.error("unit %s: no answer after %s s", unit_id, self.timeout_seconds)
            return _suspected(units)
        finally:
            await asyncio.to_thread(self.attempts.end, unit_id)


def _suspected(units: pa.Table) -> pa.Table:
    rows = units.select(["unit_id", "unit", "recordings"]).to_pylist()
    return to_table([row | {"suspect": True, "results": []} for row in rows], UNIT_TRANSCRIBED)
