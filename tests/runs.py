"""Fixtures of tests that run the whole chain: a small model on disk, a running Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cluster import pin_authentication

os.environ.setdefault("OMP_NUM_THREADS", "1")
pin_authentication()  # some test files import ray before any cluster starts


@pytest.fixture(scope="session")
def small_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser with random weights as a fullcanvas/1 directory: window 1 s, canvas 16."""
    from pipeline.model.checkpoint import save
    from tests.small_model import random_model

    folder = tmp_path_factory.mktemp("model") / "small"
    save(random_model(), folder)
    return folder


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A local Ray for the tests of one module; runs inside it use it instead of starting their own."""
    from pipeline.cluster import ray_cluster
    from pipeline.config import ComputeConfig

    with ray_cluster(ComputeConfig()):
        yield
