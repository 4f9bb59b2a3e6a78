"""The stages with their markers: markers are deleted, suspects are skipped, a piece that hangs ends its process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.config import RunConfig, SourceConfig
from pipeline.flow.bundles import as_block, rows_of
from pipeline.flow.guard import GuardedDecoder, GuardedReplica
from pipeline.output.attempts import MAX_ATTEMPTS, PREFIX, Attempts
from pipeline.planning.left import units_left
from pipeline.planning.pack import PlannedUnit
from pipeline.planning.plan import BASE, write_plan
from pipeline.schemas import (
    PIECE_DECODED,
    PIECE_RECOGNISED,
    START,
    About,
    Place,
    Position,
    WorkUnit,
    piece_row,
    to_table,
)
from pipeline.sources.formats import list_recordings
from pipeline.storage.base import Storage, open_storage
from pipeline.storage.errors import StorageError
from tests.support.archives import archive, settings

UNIT = "5" * 16
ABOUT = About(1.0, ("en",), "m", "f")


@pytest.fixture(autouse=True)
def _no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's metrics have locks of native threads, which a process that is forked here could find locked for ever.

    And those of a replica have a thread that would drain what later tests count.
    """
    monkeypatch.setattr("pipeline.flow.guard.DecodeMetrics", mock.Mock)
    monkeypatch.setattr("pipeline.flow.guard.ReplicaMetrics", lambda *_: mock.Mock())


@pytest.fixture
def config(tmp_path: Path, small_model_dir: Path) -> RunConfig:
    return settings(archive(tmp_path / "in", 2, seconds=1.5), tmp_path / "out", small_model_dir)


@pytest.fixture
def storage(config: RunConfig) -> Storage:
    return open_storage(config.output.uri)


def unit(config: RunConfig, *, only: str = "") -> pa.Table:
    """Plan a unit of the recordings whose name contains `only`. Returns its row of schemas.UNIT_LEFT."""
    refs = [
        ref for ref in list_recordings(SourceConfig(uri=config.source.uri, format="files")) if only in ref.source_uri
    ]
    storage = open_storage(config.output.uri)
    write_plan(storage, BASE, [PlannedUnit(WorkUnit(UNIT, tuple(refs)))])
    return units_left(storage, frozenset())


def decoder(config: RunConfig) -> GuardedDecoder:
    return GuardedDecoder(config, ABOUT)


def recognise(config: RunConfig, decoded: pa.Table) -> pa.Table:
    """What a replica makes of the rows of one block."""
    return rows_of(asyncio.run(GuardedReplica(config, ABOUT)(as_block(decoded))))


def test_units_pass_both_stages_and_leave_no_markers(config: RunConfig, storage: Storage) -> None:
    (decoded,) = map(rows_of, decoder(config)(as_block(unit(config))))
    assert decoded.schema.equals(PIECE_DECODED)
    transcribed = recognise(config, decoded)
    assert transcribed.schema.equals(PIECE_RECOGNISED)
    assert len(transcribed["results"][0]) == len(decoded["segments"][0]) == 4
    assert [result["text"] is not None for result in transcribed["results"][0].as_py()] == [True] * 4
    assert not transcribed["suspect"][0].as_py()
    assert list(storage.list(PREFIX)) == []


def test_both_stages_skip_a_suspect(config: RunConfig, storage: Storage) -> None:
    for _ in range(MAX_ATTEMPTS):
        Attempts(storage, "decode").begin(f"{UNIT}.0")
    table = unit(config)
    (decoded,) = map(rows_of, decoder(config)(as_block(table)))
    assert decoded.schema.equals(PIECE_DECODED)
    place = Place(**table["place"][0].as_py())
    assert decoded.to_pylist() == [piece_row(UNIT, place, 0, START, None) | {"suspect": True}]
    transcribed = recognise(config, decoded)
    assert transcribed.schema.equals(PIECE_RECOGNISED)
    assert transcribed["suspect"][0].as_py()
    assert transcribed["place"][0].as_py() == table["place"][0].as_py()
    assert len(list(storage.list(PREFIX))) == MAX_ATTEMPTS


def test_a_unit_that_crashed_three_replicas_is_not_given_to_another_one(config: RunConfig, storage: Storage) -> None:
    (decoded,) = map(rows_of, decoder(config)(as_block(unit(config))))
    for _ in range(MAX_ATTEMPTS):
        Attempts(storage, "model").begin(f"{UNIT}.0")
    assert recognise(config, decoded)["suspect"][0].as_py()


def test_a_unit_without_an_answer_in_time_becomes_a_suspect(config: RunConfig, storage: Storage) -> None:
    (decoded,) = map(rows_of, decoder(config)(as_block(unit(config))))
    short = config.model_copy(update={"compute": config.compute.model_copy(update={"unit_timeout_seconds": 1e-3})})
    transcribed = recognise(short, decoded)
    assert transcribed["suspect"][0].as_py()
    assert list(storage.list(PREFIX)) == []


@pytest.mark.parametrize("end", ["dies", "hangs"])
def test_a_piece_that_crashes_its_process_is_the_suspect_whatever_was_decoded_before_it(
    config: RunConfig, storage: Storage, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every restart row k is piece k, although the decoder decodes the earlier pieces again."""
    monkeypatch.setattr("pipeline.flow.guard.MARKER_SECONDS", 60.0)  # a busy disk is another test
    audio = np.random.default_rng(0).normal(size=16_000 * 150) * 0.1
    soundfile.write(Path(config.source.uri) / "long.wav", audio, 16_000)
    table = unit(config, only="long")
    limits = {"compute": config.compute.model_copy(update={"unit_timeout_seconds": 20.0 if end == "hangs" else 60.0})}
    short = config.model_copy(update=limits | {"segment": config.segment.model_copy(update={"piece_seconds": 60})})

    def life(sender: Connection) -> None:
        made = decoder(short)
        real = made.stage.pieces

        def pieces(unit_id: str, place: Place, start: Position, number: int) -> Iterator[dict[str, Any]]:
            for row in real(unit_id, place, start, number):
                if row["piece"] == 1:
                    if end == "dies":
                        os._exit(9)
                    time.sleep(600)
                yield row

        made.stage.pieces = pieces  # type: ignore[method-assign]
        for block in made(as_block(table)):
            sender.send([[row["piece"], row["suspect"]] for row in rows_of(block).to_pylist()])
        sender.close()

    lives = [blocks_of_a_life(life) for _ in range(MAX_ATTEMPTS + 1)]
    before = MAX_ATTEMPTS if end == "dies" else 1
    assert lives[:before] == [[[[0, False]]]] * before
    assert lives[before:] == [[[[0, False]], [[1, True]]]] * (MAX_ATTEMPTS + 1 - before)


def test_the_unit_that_crashes_its_process_is_the_only_suspect_of_its_bundle(
    config: RunConfig, storage: Storage
) -> None:
    """The units before it are decoded again in each life, and those behind it are decoded at last."""
    refs = list(list_recordings(SourceConfig(uri=config.source.uri, format="files")))
    ids = [letter * 16 for letter in "abc"]
    planned = [PlannedUnit(WorkUnit(unit_id, (refs[0],))) for unit_id in ids]
    write_plan(storage, BASE, planned)

    def life(sender: Connection) -> None:
        made = decoder(config)
        real = made.stage.pieces

        def pieces(unit_id: str, *rest: Any) -> Iterator[dict[str, Any]]:
            if unit_id == ids[1]:
                os._exit(9)
            yield from real(unit_id, *rest)

        made.stage.pieces = pieces  # type: ignore[method-assign]
        for block in made(as_block(units_left(storage, frozenset()))):
            sender.send([(row["unit_id"], row["suspect"]) for row in rows_of(block).to_pylist()])
        sender.close()

    lives = [blocks_of_a_life(life) for _ in range(MAX_ATTEMPTS + 1)]
    assert lives[:MAX_ATTEMPTS] == [[]] * MAX_ATTEMPTS
    assert lives[MAX_ATTEMPTS] == [[(ids[0], False), (ids[1], True), (ids[2], False)]]


@pytest.mark.usefixtures("storage")
def test_a_replica_works_on_units_in_flight_of_a_bundle_at_once(config: RunConfig) -> None:
    limited = config.model_copy(update={"compute": config.compute.model_copy(update={"units_in_flight": 2})})
    (decoded,) = map(rows_of, decoder(config)(as_block(unit(config))))
    rows = [row | {"unit_id": letter * 16} for row in decoded.to_pylist() for letter in "abcde"]
    replica = GuardedReplica(limited, ABOUT)
    real, running, most, two = replica.replica, 0, 0, asyncio.Event()

    async def counted(pieces: pa.Table) -> pa.Table:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            two.set()
        await two.wait()  # the first one waits for the second one
        answer = await real(pieces)
        running -= 1
        return answer

    replica.replica = counted  # type: ignore[assignment]
    answered = rows_of(asyncio.run(replica(as_block(to_table(rows, PIECE_DECODED)))))
    assert most == 2
    assert answered["unit_id"].to_pylist() == [row["unit_id"] for row in rows]
    assert all(len(results) == 4 for results in answered["results"].to_pylist())


def blocks_of_a_life(life: Callable[[Connection], None]) -> list[Any]:
    """What a process sends until its end."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=life, args=(theirs,))
    process.start()
    theirs.close()
    sent = []
    with contextlib.suppress(EOFError):
        while True:
            sent.append(ours.recv())
    process.join()
    return sent


def hanging(config: RunConfig, hang: Callable[[], object], mark: Callable[[str], object] | None = None) -> int:
    """The exit code of a process whose decoder calls `hang`. mark: instead of the writing of its last markers."""
    table = unit(config)
    config = config.model_copy(
        update={"compute": config.compute.model_copy(update={"unit_timeout_seconds": 1.0})},
    )

    def life() -> None:
        made = decoder(config)

        def pieces(*_: Any) -> Iterator[dict[str, Any]]:
            hang()
            yield {}

        made.stage.pieces = pieces  # type: ignore[method-assign]
        made.attempts.condemn = mark or made.attempts.condemn  # type: ignore[method-assign]
        list(made(as_block(table)))

    process = multiprocessing.get_context("fork").Process(target=life)
    process.start()
    process.join(100)
    is_alive = process.is_alive()
    process.kill()
    process.join()
    assert not is_alive
    return process.exitcode or 0


@pytest.mark.parametrize("store", ["fails", "hangs"])
def test_a_decoder_that_hangs_is_ended_whatever_its_store_does(
    config: RunConfig, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.flow.guard.MARKER_SECONDS", 0.5)
    output = Path(config.output.uri)

    def hang() -> None:
        if store == "fails":
            output.rename(output.with_name("gone"))
        time.sleep(600)

    assert hanging(config, hang, (lambda _: time.sleep(600)) if store == "hangs" else None) == 1


def test_native_code_that_hangs_with_pythons_lock_is_ended(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread of Python runs then, so no timer of Python either."""
    monkeypatch.setattr("pipeline.flow.guard.MARKER_SECONDS", 0.5)
    assert hanging(config, lambda: re.match(r"(a+)+$", "a" * 64 + "b")) == 1


def test_a_store_that_fails_is_not_the_fault_of_a_unit(config: RunConfig, storage: Storage) -> None:
    """It ends the run, and no later attempt is made with a marker of this one."""
    made = decoder(config)
    table = unit(config)

    def pieces(*_: Any) -> Iterator[dict[str, Any]]:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", "/out/x")
        yield {}

    made.stage.pieces = pieces  # type: ignore[method-assign]
    with pytest.raises(StorageError, match=r"^/out/x: Transport endpoint is not connected; once it is back"):
        list(made(as_block(table)))
    assert list(storage.list(PREFIX)) == []
