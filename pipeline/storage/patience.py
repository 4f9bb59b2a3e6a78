"""One retry loop for every request to a store, of sources and output alike, and the counter of its retries."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, TypeVar

FIRST_SECONDS, LONGEST_SECONDS = 0.25, 20.0  # of waiting; it doubles each time, and up to half is taken off at random

retries: Counter[str] = Counter()  # requests that this process repeated, by error; all storages and sources together

T = TypeVar("T")
_lock = threading.Lock()


class Failure(NamedTuple):
    """What a failed request means. error: raised in the end. transient: name to count; None: trying again is no use."""

    error: Exception
    transient: str | None


def patiently(request: Callable[[], T], judge: Callable[[Exception], Failure | None], attempts: int) -> T:
    """Call `request` until it succeeds, at most `attempts` times.

    judge: says what an exception means; None: it is not about the store and is raised as it is. Raises the error of
    the last `Failure`. The waits of 7 attempts are about 12 seconds, those of 12 attempts about 80 seconds.
    """
    for attempt in range(1, attempts + 1):
        try:
            return request()
        except Exception as err:
            failure = judge(err)
            if failure is None:
                raise
            if failure.transient is None or attempt == attempts:
                raise failure.error from err
            with _lock:
                retries[failure.transient] += 1
        time.sleep(min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.5, 1))
    raise ValueError("attempts is at least 1")
