"""Fixtures for tests of the whole chain: a small model on disk, a running Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.flow.cluster import pin_authentication
from tests.support.poison.sitecustomize import held

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's workers wait for whatever another test computes
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


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run in this process gets its last bundle when this file is there: the run cannot end before."""
    from pipeline.flow import bundles

    file = tmp_path / "hold"
    monkeypatch.setattr(bundles, "_blocks", held(bundles._blocks, str(file)))
    yield file
    file.touch()
