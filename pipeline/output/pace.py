"""The time that is left, with an interval: how steady was the speed until now?"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from scipy import stats

COVERAGE = 0.9  # of the interval
FIRST_SECONDS = 5.0  # of a window at first
FEWEST, MOST = 4, 16  # windows: with fewer there is no interval; more become half as many, twice as long


class Left(NamedTuple):
    """Seconds that are left. low, high: None, if too little is done to say."""

    seconds: float
    low: float | None = None
    high: float | None = None


class Pace:
    """Sums the work that is done in windows of time. Their spread says how far the mean speed may be off.

    The work of a window and of its neighbours depend on each other, so windows become longer: the method of batch
    means. The interval also has the spread of what is still to come (a prediction interval, Student's t). Any thread
    may ask.
    """

    def __init__(self, total: float) -> None:
        """total: the work of this run, in any unit."""
        self.done = 0.0
        self._total = total
        self._window = FIRST_SECONDS
        self._sums = [0.0]  # of each window, the last one is open
        self._lock = threading.Lock()  # of the windows

    def add(self, seconds: float, work: float) -> None:
        """Count work that ended `seconds` after the start."""
        with self._lock:
            self.done += work
            self._open(seconds)
            self._sums[-1] += work

    def left(self, seconds: float) -> Left | None:
        """What is left `seconds` after the start. None: nothing is done yet."""
        if self.done <= 0:
            return None
        rest = max(0.0, self._total - self.done)
        mean = Left(seconds * rest / self.done)
        with self._lock:
            self._open(seconds)
            closed, window = np.array(self._sums[:-1]), self._window
        count = len(closed)
        if count < FEWEST or rest == 0 or closed.sum() == 0:
            return mean
        to_come = max(1.0, mean.seconds / window)  # windows
        error = closed.std(ddof=1) * (1 / count + 1 / to_come) ** 0.5 * stats.t.ppf((1 + COVERAGE) / 2, count - 1)
        spread = error / closed.mean()
        high = mean.seconds / (1 - spread) if spread < 1 else None
        return Left(mean.seconds, mean.seconds / (1 + spread), high)

    def _open(self, seconds: float) -> None:
        """Open the window in which this moment is."""
        while len(self._sums) * self._window <= seconds:
            self._sums.append(0.0)
            if len(self._sums) > MOST:
                pairs = [sum(self._sums[at : at + 2]) for at in range(0, len(self._sums) - 1, 2)]
                self._sums = [*pairs, *self._sums[len(pairs) * 2 :]]
                self._window *= 2
