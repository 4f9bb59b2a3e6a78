"""The stages as the chain runs them: with a marker for each attempt, a time limit for each piece, and metrics."""

from __future__ import annotations

import asyncio
import faulthandler
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
    piece_row,
    to_table,
)
from pipeline.storage.base import OutputError, open_storage
from pipeline.storage.errors import storage_error

log = logging.getLogger(__name__)

MARKER_SECONDS = 10.0  # for the marker of a piece that hangs; then its process ends without one


class GuardedDecoder:
    """Turns one row of schemas.UNIT_LEFT into rows of PIECE_DECODED, one for each piece of the unit.

    If decoding a piece has crashed its process before, its row says that the unit is a suspect, and it is the last one.

    After a restart Ray skips as many output rows as it already has. So row k must be piece k in every life: pieces
    saved earlier are emitted as empty rows.
    """

    def __init__(self, config: RunConfig, about: About) -> None:
        self.stage = DecodeStage(config, about)
        self.storage = self.stage.storage
        self.attempts = Attempts(self.storage, "decode", about.run)
        self.timeout_seconds = config.compute.unit_timeout_seconds
        self.metrics = RetryMetrics("decode")

    def __call__(self, units: pa.Table) -> Iterator[pa.Table]:
        for row in self._pieces(units["unit_id"][0].as_py(), Place(**units["place"][0].as_py())):
            self.metrics.report()
            yield to_table([row], PIECE_DECODED)

    def _pieces(self, unit_id: str, place: Place) -> Iterator[dict[str, Any]]:
        saved = saved_pieces(self.storage, unit_id)
        at: Position | None = START  # where piece `number` begins; None: there is no more piece
        number = 0
        pieces: Iterator[dict[str, Any]] | None = None  # of the decoder, from `number` on; None: not started there
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
        """The next piece, within its time limit. None if it is a suspect, or if the decoder itself fails.

        name: "<unit>.<number>" of the piece, for its marker. A marker for the whole unit would not do: after a crash
        the pieces before this one are decoded again, and their success would remove it.
        """
        if not self.attempts.begin(name):
            return None
        watchdog = threading.Timer(self.timeout_seconds, self._give_up, [name])
        watchdog.daemon = True
        watchdog.start()
        # Native code that hangs and keeps Python's lock would also stop the timer. This one needs no lock.
        faulthandler.dump_traceback_later(self.timeout_seconds + 2 * MARKER_SECONDS, exit=True, file=2)
        try:
            return next(pieces)
        except (ConfigError, OutputError):
            raise
        except Exception as err:  # its recordings will run alone, which shows the one at fault
            if failed := storage_error(err):
                raise failed from None
            log.exception("piece %s: the decoder failed", name)
            return None
        finally:
            watchdog.cancel()
            faulthandler.cancel_dump_traceback_later()
            self.attempts.end(name)

    def _give_up(self, name: str) -> None:
        """End this process: a decoder that hangs in native code cannot be stopped otherwise.

        It ends also if the store takes no marker, or hangs itself.
        """
        try:
            log.error("piece %s: still decoding after %s s", name, self.timeout_seconds)
            marking = threading.Thread(target=self.attempts.condemn, args=[name], daemon=True)
            marking.start()
            marking.join(MARKER_SECONDS)
        finally:
            os._exit(1)


class GuardedReplica:
    """Turns one row of PIECE_DECODED into one of PIECE_RECOGNISED. Concurrent calls share the replica's engine."""

    def __init__(self, config: RunConfig, about: About) -> None:
        from pipeline.model.stage import Replica  # imports torch, so only in processes with a model

        self.replica = Replica(config, about)
        self.storage = open_storage(config.output.uri, create=False, config=config.storage)
        self.attempts = Attempts(self.storage, "model", about.run)
        self.timeout_seconds = config.compute.unit_timeout_seconds
        self.metrics = RetryMetrics("model")

    async def __call__(self, pieces: pa.Table) -> pa.Table:
        answered = await self._answered(pieces)
        self.metrics.report()
        return answered

    async def _answered(self, pieces: pa.Table) -> pa.Table:
        if pieces["suspect"][0].as_py() or pieces["saved"][0].as_py():
            return _skipped(pieces)
        name = f"{pieces['unit_id'][0].as_py()}.{pieces['piece'][0].as_py()}"
        if not await asyncio.to_thread(self.attempts.begin, name):
            return _skipped(pieces, suspect=True)
        try:
            return await asyncio.wait_for(self.replica(pieces), self.timeout_seconds)
        except TimeoutError:
            log.error("piece %s: no answer after %s s", name, self.timeout_seconds)
            return _skipped(pieces, suspect=True)
        finally:
            await asyncio.to_thread(self.attempts.end, name)


class MeteredCommit:
    """The `CommitStage` with metrics."""

    def __init__(self, config: RunConfig, about: About) -> None:
        self.stage = CommitStage(config, about)
        self.metrics = RetryMetrics("commit")

    def __call__(self, pieces: pa.Table) -> pa.Table:
        receipts = self.stage(pieces)
        self.metrics.report()
        return receipts


def _skipped(pieces: pa.Table, **flags: bool) -> pa.Table:
    """The same pieces as rows of PIECE_RECOGNISED without results. flags: columns with new values."""
    rows = pieces.drop_columns(["segments", "pcm"]).to_pylist()
    return to_table([row | {"results": []} | flags for row in rows], PIECE_RECOGNISED)
