"""Two drivers of one job on a real Ceph gateway, one of them suspended for a while: the result is exact."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.bucket_runs import check_exact, committed, upload, words_for
from tests.support.drivers import HANG, held, start


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below this one; none if it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.timeout(HANG + 300)
def test_two_drivers_of_which_one_is_suspended_for_a_while_leave_an_exact_result(
    bucket: str, tmp_path: Path, small_model_dir: Path
) -> None:
    """The first driver is suspended (SIGSTOP) with all its processes after some commits, and a second driver starts.

    While the second one works, the first one goes on with the units that it had.
    """
    recordings = 45
    source = upload(bucket, tmp_path / "in", recordings)
    words = words_for(source, bucket, small_model_dir)
    hold = tmp_path / "hold"
    first = start(words, tmp_path / "first", **held(hold))
    suspended: list[psutil.Process] = []
    second = None
    try:
        deadline = time.monotonic() + HANG
        while committed(bucket) < 5:
            assert first.poll() is None, (tmp_path / "first").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        suspended = [psutil.Process(first.pid), *descendants(first.pid)]
        for process in suspended:
            process.suspend()
        before = committed(bucket)
        assert before < recordings
        second = start(words, tmp_path / "second", **held(hold))
        while committed(bucket) <= before:
            assert second.poll() is None, (tmp_path / "second").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for process in suspended:  # while the second is at work
            process.resume()
        hold.touch()
        assert second.wait(timeout=HANG) == 0, (tmp_path / "second").read_text()[-3000:]
        assert first.wait(timeout=HANG) in (0, 1, 2, -signal.SIGKILL), (tmp_path / "first").read_text()[-3000:]
    finally:
        for process in suspended:
            if process.is_running():
                process.kill()
        for driver in (first, second):
            if driver is not None:
                driver.kill()
                driver.wait()
    check_exact(bucket, recordings)
