"""Two drivers of one job on a real Ceph gateway, one of them asleep for a while: the result is exact."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.flow.test_kill import start
from tests.support.bucket_runs import check_exact, committed, upload, words_for


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.timeout(600)
def test_two_drivers_and_a_writer_that_sleeps_through_the_resume_leave_an_exact_result(
    bucket: str, tmp_path: Path, small_model_dir: Path
) -> None:
    """The first driver is stopped with all its processes (SIGSTOP) after some commits; a second one does the rest; the
    first wakes up and goes on with what it held."""
    recordings = 45
    source = upload(bucket, tmp_path / "in", recordings)
    words = words_for(source, bucket, small_model_dir)
    first = start(words, tmp_path / "first")
    sleeping: list[psutil.Process] = []
    second = None
    try:
        deadline = time.monotonic() + 150
        while committed(bucket) < 5:
            assert first.poll() is None, (tmp_path / "first").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        sleeping = [psutil.Process(first.pid), *descendants(first.pid)]
        for process in sleeping:
            process.suspend()
        held = committed(bucket)
        assert held < recordings
        second = start(words, tmp_path / "second")
        time.sleep(8)
        for process in sleeping:  # while the second is at work
            process.resume()
        assert second.wait(timeout=240) == 0, (tmp_path / "second").read_text()[-3000:]
        assert first.wait(timeout=240) in (0, 1, 2, -signal.SIGKILL), (tmp_path / "first").read_text()[-3000:]
    finally:
        for process in sleeping:
            if process.is_running():
                process.kill()
        for driver in (first, second):
            if driver is not None:
                driver.kill()
                driver.wait()
    check_exact(bucket, recordings)
