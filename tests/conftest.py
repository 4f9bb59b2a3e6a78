"""Fixtures that several test files use."""

pytest_plugins = ["tests.ceph", "tests.runs"]
