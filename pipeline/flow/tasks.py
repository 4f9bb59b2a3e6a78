"""Independent tasks in Ray, for work that needs no chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from pipeline.flow.suspects import users_error

MAX_RETRIES = 3  # of a task whose process or machine died
T = TypeVar("T")
R = TypeVar("R")


def run_tasks(function: Callable[[T], R], tasks: Iterable[T], at_once: int | None = None) -> Iterator[R]:
    """Yield what a function of a module returns for each task, as soon as it is there, in no order.

    Each reserves one CPU. at_once: so many run or wait at most; None: as many as there are CPUs. Ray must be running.
    Raises ConfigError, OutputError or StorageError if that is the cause, otherwise Ray's error.
    """
    remote: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(function)
    most = at_once or max(1, int(ray.cluster_resources().get("CPU", 1)))
    coming, running = iter(tasks), list[Any]()
    try:
        while True:
            running += [remote.remote(task) for task in islice(coming, most - len(running))]
            if not running:
                return
            done, running = ray.wait(running)
            yield from ray.get(done)
    except RayError as err:
        raise users_error(err) or err from None
    finally:
        for one in running:
            ray.cancel(one, force=True)
