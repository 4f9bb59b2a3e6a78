"""The stages as the chain runs them: a marker for every attempt, a time limit for every piece, metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.audio.stage import DecodeStage
from pipeline.config import ConfigError, RunConfig
from pipeline.flow.metrics import RetryMetrics
from pipeline.output.stage import Attempts, CommitStage, saved_pieces
from pipeline.schemas import (
    PIECE_DECODED,
    PIECE_RECOGNISED,
    START,
    About,
    Place,
    Position,
    UnreachableError,
    piece_row,
    to_table,
)
from pipeline.storage.base import OutputError, open_storage

log = logging.getLogger(__name__)


class GuardedDecoder:
    """One row of schemas.TODO in, one row of PIECE_DECODED out for each piece of the unit.

    A unit whose decoding crashed its process before is a suspect: one row that says so.

    After a restart Ray skips as many output rows as it already has. So row k must be piece k in every life: pieces
    saved earlier are emitted as empty rows.
    """

    def __init__(self, config: RunConfig, about: About) -> None:
        self.stage = DecodeStage(config, about)
        self.storage = self.stage.storage
        self.attempts = Attempts(self.storage, "decode")
        self.timeout_seconds = config.compute.unit_timeout_seconds
        self.metrics = RetryMetrics("decode")

    def __call__(self, units: pa.Table) -> Iterator[pa.Table]:
        for row in self._pieces(units["unit_id"][0].as_py(), Place(**units["place"][0].as_py())):
            self.metrics.report()
            yield to_table([row], PIECE_DECODED)

    def _pieces(self, unit_id: str, place: Place) -> Iterator[dict[str, Any]]:
        saved = saved_pieces(self.storage, unit_id)
        at: Position | None = START
        number = 0
        pieces: Iterator[dict[str, Any]] | None = None  # from `number` on
        while at is not None:
            if number in saved:
                yield piece_row(unit_id, place, number, at, saved[number]) | {"saved": True}
                at, pieces = saved[number], None
            else:
                pieces = pieces or self.stage.pieces(unit_id, place, at, number)
                row = self._guarded(f"{unit_id}.{number}", pieces)
                if row is None:
                    yield piece_row(unit_id, place, number, at, None) | {"suspect": True}
                    return
                yield row
                at = Position(**row["next"]) if row["next"] else None
            number += 1

    def _guarded(self, name: str, pieces: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        """The next piece, within its time limit. None for a suspect, and where the decoder itself fails.

        name: of the piece. After a crash the pieces before it are decoded again, so a marker must name the piece.
        """
        if not self.attempts.begin(name):
            return None
        watchdog = threading.Timer(self.timeout_seconds, self._give_up, [name])
        watchdog.daemon = True
        watchdog.start()
        try:
            return next(pieces)
        except (ConfigError, OutputError, UnreachableError):
            raise
        except Exception:  # the unit will run alone, which shows the recording
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
    """One row of PIECE_DECODED in, one of PIECE_RECOGNISED out. Several calls in flight share the replica's engine."""

    def __init__(self, config: RunConfig, about: About) -> None:
        from pipeline.model.stage import Replica  # torch: only in the processes that hold a model

        self.replica = Replica(config, about)
        self.storage = open_storage(config.output.uri, create=False, config=config.storage)
        self.attempts = Attempts(self.storage, "model")
        self.timeout_seconds = config.compute.unit_timeout_seconds
        self.metrics = RetryMetrics("model")

    async def __call__(self, pieces: pa.Table) -> pa.Table:
        answered = await self._answered(pieces)
        self.metrics.report()
        return answered

    async def _answered(self, pieces: pa.Table) -> pa.Table:
        if pieces["suspect"][0].as_py() or pieces["saved"][0].as_py():
            return _untouched(pieces)
        name = f"{pieces['unit_id'][0].as_py()}.{pieces['piece'][0].as_py()}"
        if not await asyncio.to_thread(self.attempts.begin, name):
            return _untouched(pieces, suspect=True)
        try:
            return await asyncio.wait_for(self.replica(pieces), self.timeout_seconds)
        except TimeoutError:
            log.error("unit %s: no answer after %s s", name, self.timeout_seconds)
            return _untouched(pieces, suspect=True)
        finally:
            await asyncio.to_thread(self.attempts.end, name)


class MeteredCommit:
    """`CommitStage` with metrics."""

    def __init__(self, config: RunConfig, about: About) -> None:
        self.stage = CommitStage(config, about)
        self.metrics = RetryMetrics("commit")

    def __call__(self, pieces: pa.Table) -> pa.Table:
        receipts = self.stage(pieces)
        self.metrics.report()
        return receipts


def _untouched(pieces: pa.Table, **marks: bool) -> pa.Table:
    rows = pieces.drop_columns(["segments", "pcm"]).to_pylist()
    return to_table([row | {"results": []} | marks for row in rows], PIECE_RECOGNISED)
