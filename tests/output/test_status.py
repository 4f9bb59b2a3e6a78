"""What jobs.status says of an output: while a run is at work, after it, and where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.status import main
from pipeline.output.progress import RunProgress
from pipeline.output.publish import publish_tables
from pipeline.output.status import read_status, status_lines
from pipeline.storage.base import Storage, open_storage
from tests.support.outputs import commit, left, plan, ref, run
from tests.support.small_s3 import SmallS3

ROOT = Path(__file__).parents[2]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An output with a plan of two units, of which one is committed; one recording of it is a dead letter."""
    storage = open_storage(str(tmp_path / "out"))
    fingerprint = plan(storage, [ref(number) for number in range(6)])
    commit(storage, left(storage)[0], fingerprint, dead=["r1"])
    return storage


def sign(storage: Storage, share: str = "1/1", *, seconds_ago: float = 0, **changes: Any) -> None:
    """Write the sign of life of a run with two units, of which one is done."""
    progress = RunProgress(share)
    progress.begin(2, 1, lambda units: [12.0] * len(units), 12.0)
    time = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="seconds")
    known = progress.figures() | {"time": time, "host": "node-7"} | changes
    storage.put(f"_run/progress/{known['share']}.json", json.dumps(known).encode())


def test_an_output_without_a_sign_is_unfinished_and_its_books_are_shown(storage: Storage) -> None:
    status = read_status(storage)
    assert (status["state"], status["units_committed"], status["units_planned"]) == ("unfinished", 1, 2)
    assert status["dead_letters"] == {"model_error": 1}
    lines = list(status_lines(status))
    assert lines[0] == f"{storage.uri}: unfinished, not published as it is now"
    assert lines[1] == "1 of 2 units · 2 of 6 recordings transcribed, 3 to do · 0.00 h of audio"
    assert lines[2:] == ["1 dead letters (model_error 1)"]


def test_a_run_at_work_is_running_until_it_is_silent_for_two_minutes(storage: Storage) -> None:
    sign(storage, seconds_ago=40, rtfx=12.5, eta_seconds=100, at_work={"model": 2})
    status = read_status(storage)
    assert (status["state"], status["rtfx"], status["eta_seconds"], status["eta_low"]) == ("running", 12.5, 100, None)
    (line,) = list(status_lines(status))[3:]
    assert line.startswith("share 1/1 on node-7, sign of life 0:4")
    assert "ago: transcribing · 1 of 2 units · " in line
    assert line.endswith("· pieces at work: model 2 · ETA 1:40")
    sign(storage, seconds_ago=125)
    assert read_status(storage)["state"] == "silent"


def test_shares_are_added_up_and_the_slowest_decides_when_all_end(storage: Storage) -> None:
    sign(storage, "1/2", rtfx=10, eta_seconds=100, eta_low=90, eta_high=120)
    sign(storage, "2/2", rtfx=5, eta_seconds=200, eta_low=80, eta_high=None)
    status = read_status(storage)
    assert (status["rtfx"], status["eta_seconds"], status["eta_low"], status["eta_high"]) == (15, 200, 90, None)


def test_how_the_last_run_ended_is_said_with_its_error(storage: Storage) -> None:
    sign(storage, state="failed", error="out of memory")
    status = read_status(storage)
    assert status["state"] == "failed"
    assert list(status_lines(status))[-1].endswith(": out of memory")


def test_a_complete_and_published_output_is_done(storage: Storage) -> None:
    run(storage, plan(storage, []))
    assert read_status(storage)["state"] == "unfinished"
    publish_tables(storage)
    sign(storage, state="done")
    status = read_status(storage)
    assert (status["state"], status["published"]) == ("done", True)
    assert len(list(status_lines(status))) == 3


def test_the_command_takes_the_address_alone_and_prints_lines_or_json(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([storage.uri]) == 0
    assert capsys.readouterr().out.splitlines() == list(status_lines(read_status(storage)))
    assert main(["--watch", "--json", storage.uri]) == 0  # no run is at work, so it ends
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == read_status(storage)


def test_an_address_is_known_beside_options_with_a_value_and_with_an_equals_sign_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "day=2026-11-30"
    plan(open_storage(str(output)), [ref(0)])
    assert main(["--log", "text", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(output)
    assert main([str(output), str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{str(tmp_path)!r}: an override must look like section.key=value\n"


def test_a_reader_that_has_read_enough_ends_the_watch(storage: Storage) -> None:
    sign(storage)  # a run is at work, so the watch would go on
    command = [sys.executable, "-m", "jobs.status", storage.uri, "--watch", "--json"]
    watch = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert watch.stdout
        assert watch.stderr
        watch.stdout.close()
        assert watch.stderr.read() == ""
        assert watch.wait(timeout=60) == 0
    finally:
        watch.kill()


def test_an_output_in_a_bucket_is_read_from_anywhere(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sign(storage)
    store = SmallS3()
    store.objects.update({f"out/{key}": storage.get(key) for key in storage.list("")})
    environment = {"AWS_ENDPOINT_URL": store.url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key"}
    for name, value in (environment | {"AWS_SECRET_ACCESS_KEY": "secret"}).items():  # pragma: allowlist secret
        monkeypatch.setenv(name, value)
    assert main(["s3://b/out", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    store.close()
    assert (status["state"], status["units_committed"], len(status["runs"])) == ("running", 1, 1)


def test_a_folder_without_a_plan_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"output.uri: {tmp_path}: no run has planned anything here\n"
