"""jobs.bench commit: what its rows say, and that units need few requests to a distant store."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from jobs import bench as job
from pipeline.benchmark.distant import distant_store
from pipeline.storage.base import open_storage, race_probe
from tests.support.storages import check_missing, check_puts, check_versions


def test_rows_hold_the_rate_and_the_requests_of_both_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures" / "commit.json"
    assert job.main(["commit", "--units", "3", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["store"], row["delay_ms"], row["pieces"]) for row in rows] == [
        ("local", 0, 1),
        ("local", 0, 2),
        ("distant", 50, 1),
        ("distant", 50, 2),
    ]
    for row in rows:
        assert row["units_per_second"] == pytest.approx(3 / row["seconds"], rel=0.1)
        assert row["processor_ms"] > 0
    assert [row["requests"] for row in rows[:3]] == [None, None, 2]  # the data, and the commit
    # A piece is put and read, then data and commit, two deletes. If its pieces come in the other order: three more.
    assert 6 <= rows[3]["requests"] <= 9
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:3] == ["store", "pieces", "units"]
    assert [line.split()[0] for line in shown[1:]] == ["local", "local", "distant", "distant"]


def test_the_distant_store_is_a_store() -> None:
    with distant_store(0) as store:
        storage = open_storage(f"{store.uri}/out")
        race_probe(storage)
        check_puts(storage)
        check_missing(storage)
        check_versions(storage)
        for number in range(1200):  # a listing of more than one page
            storage.put(f"data/{number:04d}", b"x")
        assert list(storage.list("data/0")) == [f"data/{number:04d}" for number in range(1000)]
        assert len(list(storage.list("data/"))) == 1200
        with storage.open("data/0000") as stream:
            assert stream.read() == b"x"
        assert store.requests()["PUT"] > 1200
        assert store.requests() == {}
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_each_answer_of_the_distant_store_takes_its_delay() -> None:
    with distant_store(0.1) as store:
        storage = open_storage(f"{store.uri}/out")
        started = time.monotonic()
        storage.put("a", b"1")
        assert time.monotonic() - started >= 0.1
