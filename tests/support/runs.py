"""Fixtures for tests of the whole chain: a small model on disk, a running Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.flow.cluster import pin_authentication

os.environ.setdefault("OMP_NUM_THREADS", "1")
pin_authentication()  # before a test file imports ray


@pytest.fixture(scope="session")
def small_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser with random weights as a fullcanvas/1 directory: window 1 s, canvas 16."""
    pytest.importorskip("torch", reason="needs torch")
    from pipeline.model.files.checkpoint import save
    from tests.support.small_model import random_model

    folder = tmp_path_factory.mktemp("model") / "small"
    save(random_model(), folder)
    return folder


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A local Ray for the tests of one module. Runs in these tests use it and do not start their own."""
    from pipeline.config import ComputeConfig
    from pipeline.flow.cluster import ray_cluster

    with ray_cluster(ComputeConfig()):
        yield


def in_this_process(config: RunConfig) -> None:
    """Plan, transcribe and publish through the same stages, but without Ray: one piece after the other."""
    from pipeline.audio.stage import DecodeStage
    from pipeline.model.files.layout import describe
    from pipeline.model.stage import Replica
    from pipeline.output.commit import committed_units
    from pipeline.output.publish import publish_tables
    from pipeline.output.stage import CommitStage
    from pipeline.planning.fingerprint import fingerprint_id
    from pipeline.planning.left import units_left
    from pipeline.planning.plan import read_fingerprint
    from pipeline.run import prepare
    from pipeline.schemas import PIECE_DECODED, About, Place, to_table

    storage, info = prepare(config), describe(config.model.name, config.model.revision)
    fingerprint = fingerprint_id(read_fingerprint(storage))
    about = About(info.window_seconds, tuple(info.languages), f"{info.name}@{info.weights_hash}", fingerprint)
    decoder, replica, commit = DecodeStage(config, about), Replica(config, about), CommitStage(config, about)
    try:
        for unit in units_left(storage, committed_units(storage)).to_pylist():
            for row in decoder.pieces(unit["unit_id"], Place(**unit["place"])):
                commit(asyncio.run(replica(to_table([row], PIECE_DECODED))))
    finally:
        replica.engine.close()
    publish_tables(storage)
