"""Work that goes on while a caller does something else. Its threads never hold up the end of their process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Does calls in their order, `threads` of them at the same time.

    A ThreadPoolExecutor waits for its threads at the end of the process, however long a store takes to answer them.
    """

    def __init__(self, threads: int) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=self._work, daemon=True, name="background").start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Return what will have the result or the exception of `call`. Cancelling it works until the call begins."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as err:  # noqa: BLE001 it is raised where the result is taken
                    future.set_exception(err)
            del future, call  # the next call may be long in coming


@cache
def workers(threads: int) -> Background:
    """The threads of this process, the same ones for the same number."""
    return Background(threads)


os.register_at_fork(after_in_child=workers.cache_clear)  # a forked child has none of these threads
