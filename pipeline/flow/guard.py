"""The stages as the chain runs them: with a marker for each attempt, a time limit for each piece, and metrics."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline import logs
from pipeline.audio.stage import DecodeStage
from pipeline.config import ConfigError, RunConfig
from pipeline.flow.bundles import as_block, rows_of
from pipeline.flow.metrics import CommitMetrics, DecodeMetrics, ReplicaMetrics
from pipeline.output.stage import Attempts, CommitStage, saved_pieces
from pipeline.schemas import (
    AUDIO_COLUMNS,
    PIECE_DECODED,
    PIECE_HALF,
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

if TYPE_CHECKING:
    from pipeline.model.stage import Replica

log = logging.getLogger(__name__)

NEW_OBJECTS = (
    100_000  # between looks for cycles: a unit has thousands of words without any; looking took 40 % of the time
)
MARKER_SECONDS = 10.0  # for the marker of a piece that hangs; then its process ends without one


def log_as(about: About) -> None:
    """Let this process log as the job does. In text it stays as it is: Ray keeps what its processes write to stderr."""
    if about.log_json:
        logs.configure("json")
        logs.of_process(run=about.run)


class GuardedDecoder:
    """Turns a block of rows of schemas.UNIT_LEFT, a bundle, into blocks of rows of PIECE_DECODED, one for each piece.

    If decoding a piece has crashed its process before, its row says that the unit is a suspect, and it is the last one
    of its unit. A block ends with the bundle, and after each piece that is not the last of its unit: so the pieces of
    long units bound the memory.

    After a restart Ray skips as many blocks as it already has. So block k must have the same pieces in every life:
    pieces saved earlier are emitted as empty rows.
    """

    def __init__(self, config: RunConfig, about: About) -> None:
        log_as(about)
        self.stage = DecodeStage(config, about)
        self.storage = self.stage.storage
        self.attempts = Attempts(self.storage, "decode", about.run)
        self.timeout_seconds = config.compute.unit_timeout_seconds
        self.metrics = DecodeMetrics()

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        waiting: list[pa.Table] = []  # pieces of the next block
        for unit in rows_of(block).to_pylist():
            for row in self._pieces(unit["unit_id"], Place(**unit["place"])):
                waiting.append(to_table([row], PIECE_DECODED))
                if row["next"] is not None:
                    yield self._block(waiting)
        if waiting:
            yield self._block(waiting)

    def _block(self, waiting: list[pa.Table]) -> pa.Table:
        self.metrics.report()
        block = as_block(pa.concat_tables(waiting))
        waiting.clear()
        return block

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
                with logs.about(unit=unit_id, piece=number):
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
        began = time.monotonic()
        try:
            row = next(pieces)
            self.metrics.piece(row["samples"], time.monotonic() - began)
            return row
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
    """Turns a block of PIECE_DECODED into one of PIECE_RECOGNISED. Concurrent calls share the replica's engine.

    With model.second, whose replicas come next, the rows are those of PIECE_HALF: they still have their audio.
    The engine has at most compute.units_in_flight pieces, of all calls together. So at most so many have a marker when
    the process dies.
    """

    name = "model"

    def __init__(self, config: RunConfig, about: About) -> None:
        log_as(about)
        self.schema = PIECE_RECOGNISED if config.model.second is None else PIECE_HALF
        self.replica = self.start(config, about)
        self.storage = open_storage(config.output.uri, create=False, config=config.storage)
        self.attempts = Attempts(self.storage, self.name, about.run)
        self.timeout_seconds = config.compute.unit_timeout_seconds
        self.metrics = ReplicaMetrics(self.name, self.replica.figures)
        self._places = asyncio.Semaphore(config.compute.units_in_flight)

    def start(self, config: RunConfig, about: About) -> Replica:
        """Load the model."""
        from pipeline.model.stage import Replica  # imports torch, so only in processes with a model

        return Replica(config, about)

    def skipped(self, piece: pa.Table, *, suspect: bool) -> pa.Table:
        """The same piece without results and without audio. suspect: its unit becomes a suspect."""
        (row,) = piece.drop_columns(AUDIO_COLUMNS).to_pylist()
        row |= {"results": [], "suspect": row["suspect"] or suspect}
        if self.schema is PIECE_HALF:
            row |= {"segments": [], "pcm": b"", "opening": None}
        return to_table([row], self.schema)

    async def __call__(self, block: pa.Table) -> pa.Table:
        pieces = rows_of(block)
        self.metrics.arrived(len(pieces))
        try:
            answered = await asyncio.gather(*(self._answered(pieces.slice(index, 1)) for index in range(len(pieces))))
        finally:
            self.metrics.arrived(-len(pieces))
        self.metrics.look()
        return as_block(pa.concat_tables(answered))

    async def _answered(self, piece: pa.Table) -> pa.Table:
        """The row of PIECE_RECOGNISED for one of PIECE_DECODED."""
        if piece["suspect"][0].as_py() or piece["saved"][0].as_py():
            return self.skipped(piece, suspect=False)
        unit_id, number = piece["unit_id"][0].as_py(), piece["piece"][0].as_py()
        name = f"{unit_id}.{number}"
        async with self._places:
            if not await asyncio.to_thread(self.attempts.begin, name):
                return self.skipped(piece, suspect=True)
            self.metrics.inside(1)
            try:
                recognised = await asyncio.wait_for(self.replica(piece), self.timeout_seconds)
                self.metrics.recognised(recognised)
                return recognised
            except TimeoutError:
                fields = {"unit": unit_id, "piece": number}
                log.error("piece %s: no answer after %s s", name, self.timeout_seconds, extra={"fields": fields})
                return self.skipped(piece, suspect=True)
            finally:
                self.metrics.inside(-1)
                await asyncio.to_thread(self.attempts.end, name)


class GuardedSecond(GuardedReplica):
    """Turns a block of PIECE_HALF into one of PIECE_RECOGNISED, by model.second.

    A piece on which this model crashes or hangs goes on without its signals: no text is lost by a second opinion.
    """

    name = "second"

    def start(self, config: RunConfig, about: About) -> Replica:
        """Load model.second."""
        from pipeline.model.stage import SecondReplica

        return SecondReplica(config, about)

    def skipped(self, piece: pa.Table, **_: bool) -> pa.Table:
        """The same piece without audio."""
        return piece.drop_columns(AUDIO_COLUMNS)


class MeteredCommit:
    """The `CommitStage` with metrics: a block of PIECE_RECOGNISED becomes one of receipts. Threads may share it."""

    def __init__(self, config: RunConfig, about: About) -> None:
        log_as(about)
        self.stage = CommitStage(config, about)
        self.metrics = CommitMetrics()
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS)

    def __call__(self, block: pa.Table) -> pa.Table:
        receipts = self.stage(rows_of(block))
        for row in receipts.to_pylist():
            self.metrics.receipt(row)
        self.metrics.report()
        return as_block(receipts)
