"""The retry loop for all requests to stores, of sources and output, and the counter of retries."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar

FIRST_SECONDS, LONGEST_SECONDS = 0.25, 20.0  # first and longest wait; each is twice the one before, less up to a half

MOST_SECONDS = 10_000  # durations that are kept until somebody drains them

retries: Counter[str] = Counter()  # requests that this process repeated, by error, to all sources and storages

T = TypeVar("T")
_lock = threading.Lock()
_seconds: deque[float] = deque(maxlen=MOST_SECONDS)  # of answered requests, repetitions included


class Failure(NamedTuple):
    """What a failed request means.

    error: is raised if there is no further attempt. transient: the name under which a retry is counted; None: a retry
    cannot help.
    """

    error: Exception
    transient: str | None


def drain() -> Counter[str]:
    """The retries since the last call, by error."""
    with _lock:
        counted = Counter(retries)
        retries.clear()
    return counted


def drain_seconds() -> list[float]:
    """How long each request took that was answered since the last call, in seconds, repetitions included."""
    with _lock:
        taken = list(_seconds)
        _seconds.clear()
    return taken


def patiently(request: Callable[[], T], judge: Callable[[Exception], Failure | None], attempts: int) -> T:
    """Call `request` until it succeeds, at most `attempts` times.

    judge: returns what an exception means; None if it has nothing to do with the store: then it is raised as it is.
    Raises the error of the last `Failure`. Seven attempts wait about 12 seconds, twelve attempts about 80.
    """
    began = time.monotonic()
    for attempt in range(1, attempts + 1):
        try:
            answer = request()
            _seconds.append(time.monotonic() - began)
            return answer
        except Exception as err:
            failure = judge(err)
            if failure is None:
                raise
            if failure.transient is None or attempt == attempts:
                raise failure.error from err
            with _lock:
                retries[failure.transient] += 1
        time.sleep(min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.5, 1))
    raise ValueError("attempts must be at least 1")
