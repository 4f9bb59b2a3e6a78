"""Fixtures that several test files use, what makes a test slow, and what holds for every property test."""

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.support.azurite",
    "tests.support.browser",
    "tests.support.ceph",
    "tests.support.runs",
    "tests.support.small_s3",
    "tests.support.triton_process",
]

# The same examples everywhere, and no verdict from a clock: a busy machine is no failure.
settings.register_profile(
    "fullcanvas", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fullcanvas")

# Whole runs and kills: minutes of waiting. They come first, so that no process of `make test` is left alone with one.
LONG = (
    "store_fails",
    *("kill_s3", "two_drivers_s3", "kill", "evaluate_self", "distributed", "cluster_submit", "suspects", "chain"),
    *("jobs", "source_runs", "exactly_once_s3", "engine_steady", "storage_s3", "demo", "throughput_bench", "cluster"),
    *("bad_audio_run", "pieces", "commit"),
)
# Who uses one of these is slow: a gateway of Ceph, Azurite, Chromium, Triton. Others say it with @pytest.mark.slow.
SLOW_FIXTURES = {"ceph", "azurite", "browser", "triton_path"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
