"""A source or a store that fails while a job runs: exit code 3, one line, no dead letter; the same command goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.output.attempts import ENDED, PREFIX
from pipeline.storage.base import Storage, open_storage
from tests.support.archives import archive, arguments, wav
from tests.support.bucket_runs import check_exact, committed, upload, words_for
from tests.support.ceph import Ceph
from tests.support.drivers import HANG, ended, held, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(HANG + 300)]
RECORDINGS = 40


def wait_until(happened: Callable[[], bool], driver: subprocess.Popen[bytes], log: Path) -> None:
    """Until something happened while this driver works."""
    deadline = time.monotonic() + HANG
    try:
        while not happened():
            assert driver.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
    except BaseException:
        driver.kill()
        raise


def held_runs(storage: Storage) -> set[str]:
    """The ids of the runs whose decoder was, or is, at the third piece."""
    return {key.rpartition("/")[2].split("-")[1] for key in storage.list(PREFIX) if ".2/decode-" in key}


def test_a_mount_that_vanishes_and_stops_of_the_job_are_no_recordings_fault(
    tmp_path: Path, small_model_dir: Path
) -> None:
    """Each happens while the decoder is in the middle of the first recording, and no other has been read."""
    source, output = archive(tmp_path / "in", RECORDINGS), tmp_path / "out"
    wav(source / "r000.wav", 130.0)
    words = [*arguments(source, output, small_model_dir), "plan.unit_recordings=1", "segment.piece_seconds=60"]
    output.mkdir()
    storage, hold = open_storage(str(output)), tmp_path / "hold"

    driver = start(words, tmp_path / "stopped", **held(hold, "THIRD_PIECE"))
    wait_until(lambda: bool(held_runs(storage)), driver, tmp_path / "stopped")
    (run,) = held_runs(storage)
    driver.send_signal(signal.SIGTERM)
    assert ended(driver, tmp_path / "stopped")[0] == 143
    assert list(storage.list(ENDED)) == [f"{ENDED}{run}"]
    assert all(f"-{run}-" in marker for marker in storage.list(PREFIX))

    driver = start(words, tmp_path / "vanished", **held(hold, "THIRD_PIECE"))
    wait_until(lambda: bool(held_runs(storage) - {run}), driver, tmp_path / "vanished")
    source.rename(tmp_path / "elsewhere")
    hold.touch()
    code, text = ended(driver, tmp_path / "vanished")
    assert code == 3, text
    assert "Traceback" not in text
    assert text.rstrip().splitlines()[-1].startswith(f"{source}: ")
    assert text.rstrip().endswith("; once it is back (mounted, restored), the same command goes on")
    assert committed(str(output)) < RECORDINGS
    again = start(words, tmp_path / "still")  # it says so before Ray starts
    assert ended(again, tmp_path / "still")[0] == 3

    (tmp_path / "elsewhere").rename(source)
    code, text = ended(start(words, tmp_path / "whole"), tmp_path / "whole")
    assert code == 0, text
    assert "crashed its process" not in text
    assert pq.read_table(output / "dead_letters").num_rows == 0
    rows = pq.read_table(output / "transcripts", columns=["recording_id"])["recording_id"].to_pylist()
    assert set(rows) == {f"r{number:03d}.wav" for number in range(RECORDINGS)}
    assert json.loads(storage.get("_run/accounting.json"))["closed"]
    assert [*storage.list(PREFIX), *storage.list(ENDED)] == []


def test_a_key_that_is_revoked_while_the_job_runs_costs_nothing(
    ceph: Ceph, bucket: str, tmp_path: Path, small_model_dir: Path
) -> None:
    source = upload(bucket, tmp_path / "in", RECORDINGS)
    words = words_for(source, bucket, small_model_dir)
    driver = start(words, tmp_path / "revoked", **held(tmp_path / "hold"))
    wait_until(lambda: committed(bucket) > 0, driver, tmp_path / "revoked")
    ceph.revoke_key()
    (tmp_path / "hold").touch()
    try:
        code, text = ended(driver, tmp_path / "revoked")
        assert code == 3, text
        assert "Traceback" not in text
        line = text.rstrip().splitlines()[-1]
        assert line.startswith(bucket.removesuffix("/out"))
        assert "; give valid keys" in line  # the answer to some requests does not say what is wrong with them
        assert line.endswith("the same command goes on")
        again, text = ended(start(words, tmp_path / "still"), tmp_path / "still")
        assert again == 3, text
        assert "InvalidAccessKeyId" in text
    finally:
        ceph.give_key()
    assert committed(bucket) < RECORDINGS
    code, text = ended(start(words, tmp_path / "whole"), tmp_path / "whole")
    assert code == 0, text
    check_exact(bucket, RECORDINGS)
    assert json.loads(open_storage(bucket, create=False).get("_run/accounting.json"))["recordings_dead_lettered"] == 0
