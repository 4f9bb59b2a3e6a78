"""One run in this process: the stages of the chain one after the other, without Ray. For a handful of recordings."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from pipeline.audio.stage import DecodeStage
from pipeline.config import RunConfig
from pipeline.model.files import layout
from pipeline.model.stage import Replica, SecondReplica
from pipeline.output.commit import committed_units
from pipeline.output.publish import publish_tables
from pipeline.output.stage import CommitStage
from pipeline.planning.fingerprint import fingerprint_id
from pipeline.planning.left import units_left
from pipeline.planning.plan import read_fingerprint
from pipeline.run import prepare
from pipeline.schemas import PIECE_DECODED, Place, to_table
from pipeline.storage.base import Storage


def transcribe_here(config: RunConfig) -> Storage:
    """Plan, transcribe what is left, and publish. Returns the output.

    A recording that cannot be transcribed is a dead letter, as in a job; but one that crashes the process ends it, and
    there is no time limit and no budget. Raises ConfigError, OutputError or StorageError as a job does, and EngineDead
    where the model fails.
    """
    storage = prepare(config)
    config, info = layout.resolve(config)
    about = info.about(fingerprint_id(read_fingerprint(storage)))
    decoder, commit = DecodeStage(config, about), CommitStage(config, about)
    kinds = [Replica] if config.model.second is None else [Replica, SecondReplica]
    models = [kind(config, about, own_process=False) for kind in kinds]
    # In a notebook this thread has an event loop that runs already.
    with ThreadPoolExecutor(1, thread_name_prefix="replica") as aside:
        try:
            for unit in units_left(storage, committed_units(storage)).to_pylist():
                for row in decoder.pieces(unit["unit_id"], Place(**unit["place"])):
                    commit(aside.submit(asyncio.run, _through(models, to_table([row], PIECE_DECODED))).result())
        finally:
            for model in models:
                model.engine.close()
    publish_tables(storage)
    return storage


async def _through(models: list[Replica], piece: pa.Table) -> pa.Table:
    """The results of all models, one after the other."""
    for model in models:
        piece = await model(piece)
    return piece
