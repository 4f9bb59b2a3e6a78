"""Work in the background: order, results and errors, and the end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pipeline.storage.background import Background, workers


def test_results_and_errors_arrive_where_they_are_taken() -> None:
    threads = Background(2)
    done, failed = threads.submit(lambda: 1), threads.submit(lambda: 1 // 0)
    assert done.result(60) == 1
    with pytest.raises(ZeroDivisionError):
        failed.result(60)
    assert threads.submit(lambda: 2).result(60) == 2


def test_calls_of_one_thread_keep_their_order_and_a_cancelled_one_is_left_out() -> None:
    one, begin, done = Background(1), threading.Event(), []
    first = one.submit(begin.wait)
    futures = [one.submit(lambda number=number: done.append(number)) for number in range(5)]
    assert futures[2].cancel()
    begin.set()
    assert first.result(60)
    futures[4].result(60)
    assert done == [0, 1, 3, 4]


def test_a_call_that_never_ends_does_not_hold_up_the_end_of_the_process() -> None:
    code = """
import threading
from pipeline.storage.background import workers
begun = threading.Event()
workers(2).submit(lambda: begun.set() or threading.Event().wait())
assert begun.wait(60)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=100, check=False).returncode == 0


def test_a_process_has_the_same_threads_for_the_same_number() -> None:
    before = workers(3)
    assert workers(3) is before
