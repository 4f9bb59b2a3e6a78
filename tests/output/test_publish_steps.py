"""Publishing in steps: what is published as it would be now is not read again, and any steps end in the same output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import PlanConfig
from pipeline.output.accounting import close_books
from pipeline.output.publish import publish_tables
from pipeline.output.retry import plan_retry
from pipeline.storage.base import Storage, open_storage
from pipeline.storage.local import LocalStorage
from tests.support.outputs import plan, ref, run

RECORDINGS = 24  # 8 units of 3, in parts of about 8 rows: 6 parts


class Reads(LocalStorage):
    """A directory that notes which data and commits are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read: list[str] = []

    def get(self, key: str) -> bytes:
        if key.startswith(("data/", "commits/")):
            self.read.append(key)
        return super().get(key)


@pytest.fixture
def storage(tmp_path: Path) -> Reads:
    return Reads(tmp_path / "out")


def tables(storage: Storage) -> dict[str, bytes]:
    """The bytes of all published files."""
    return {key: storage.get(key) for name in ("transcripts/", "dead_letters/") for key in storage.list(name)}


def test_a_commit_is_read_once_and_what_is_published_not_again(storage: Reads) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(RECORDINGS)])
    run(storage, fingerprint, only=lambda number: number < 7, dead=["r1"])
    publish_tables(storage)
    assert len(storage.read) == len(set(storage.read)) == 7 + 8  # commits, and data: one unit has two files
    storage.read.clear()
    publish_tables(storage)
    assert storage.read == []
    assert close_books(storage)["units_committed"] == 7
    assert storage.read == []
    run(storage, fingerprint)
    storage.read.clear()
    publish_tables(storage)
    assert len(storage.read) < 15
    assert close_books(storage)["closed"]


@pytest.mark.parametrize("key", ["transcripts/part-00001.parquet", "dead_letters/part-00000.parquet"])
@pytest.mark.parametrize("change", [LocalStorage.delete, lambda storage, key: storage.put(key, b"other")])
def test_a_file_that_somebody_else_changed_is_written_again(
    storage: Reads, key: str, change: Callable[[Storage, str], None]
) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(RECORDINGS)])
    run(storage, fingerprint, dead=["r1"])
    publish_tables(storage)
    whole = tables(storage)
    change(storage, key)
    publish_tables(storage)
    assert tables(storage) == whole


def test_a_unit_that_is_committed_again_is_published_again(storage: Reads) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(RECORDINGS)])
    run(storage, fingerprint)
    publish_tables(storage)
    storage.delete(next(iter(storage.list("commits/"))))
    run(storage, fingerprint, dead=[f"r{number}" for number in range(RECORDINGS)])
    assert publish_tables(storage)["dead_letters"] == {"model_error": 3}


# What happens between two publications: the units with these numbers, of those that are left, are committed.
steps = st.lists(st.tuples(st.sets(st.integers(0, 7)), st.sets(st.integers(0, RECORDINGS - 1))), max_size=3)


@pytest.mark.timeout(900)
@settings(max_examples=12)
@given(steps, st.booleans())
def test_any_steps_of_publishing_end_in_what_one_publication_gives(
    between: list[tuple[set[int], set[int]]], retries: bool
) -> None:
    with TemporaryDirectory() as folder:
        storage = open_storage(folder)
        fingerprint = plan(storage, [*(ref(number) for number in range(RECORDINGS)), ref(3)])
        for units, dead in between:
            run(storage, fingerprint, only=units.__contains__, dead=[f"r{number}" for number in dead])
            if retries:
                plan_retry(storage, PlanConfig(unit_recordings=2))
            publish_tables(storage)
        run(storage, fingerprint, dead=["r5"])
        in_steps = _published(storage)
        storage.delete("_run/published.json")  # what the steps have noted
        assert _published(storage) == in_steps
        assert close_books(storage) == json.loads(storage.get("_run/accounting.json"))


def _published(storage: Storage) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """All that a publication writes, without the time and the requests that were repeated."""
    summary = {
        key: value for key, value in publish_tables(storage).items() if key not in ("published", "storage_retries")
    }
    return tables(storage), summary, json.loads(storage.get("_run/accounting.json"))
