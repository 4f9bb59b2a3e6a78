"""Fixtures that several test files use, and what holds for every property test."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.ceph", "tests.runs"]

# The same examples everywhere, and no verdict from a clock: a busy machine is no failure.
settings.register_profile("fullcanvas", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fullcanvas")
