"""A Ray cluster for the time of a run: the one a job was submitted to, or processes of our own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config import ComputeConfig

log = logging.getLogger(__name__)

REPORTER = "REPORTER_UPDATE_INTERVAL_MS"  # Ray's agent looks at every process of the node this often
START_ATTEMPTS = 3  # a raylet that needs more than 30 s on a busy machine makes ray.init fail


@dataclass(frozen=True, slots=True)
class Node:
    """A living node of the cluster that this process is connected to, and what it offers in all."""

    id: str
    address: str
    cpus: float
    gpus: float


def has_cluster() -> bool:
    """Whether `ray_cluster` would use a cluster that is there already."""
    return "RAY_ADDRESS" in os.environ or ("ray" in sys.modules and sys.modules["ray"].is_initialized())


def alive_nodes() -> list[Node]:
    """The nodes by address. Ray must be running, as for all below."""
    import ray

    found = [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            float(node["Resources"].get("CPU", 0)),
            float(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: (node.address, node.id))


def free_resources() -> tuple[float, float]:
    """CPUs and GPUs that nothing occupies at the moment."""
    import ray

    free = ray.available_resources()
    return float(free.get("CPU", 0)), float(free.get("GPU", 0))


def on_every_node(
    function: Callable[..., Any], arguments: dict[Node, tuple[Any, ...]], seconds: float
) -> Iterator[Any]:
    """(node, result) of a function that runs once on each node, as they come; occupies no CPU and no GPU there.

    Instead of a result there is Ray's exception, or TimeoutError for a node that has not answered after `seconds`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(function)
    waiting = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(*given): node
        for node, given in arguments.items()
    }
    deadline = time.monotonic() + seconds
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        for answer in ready:
            try:
                yield waiting[answer], ray.get(answer)
            except ray.exceptions.RayError as err:
                yield waiting[answer], err
            del waiting[answer]
        if not ready:
            break
    for late, node in waiting.items():
        ray.cancel(late, force=True)
        yield node, TimeoutError(f"no answer within {seconds:g} s")


@contextlib.contextmanager
def ray_cluster(compute: ComputeConfig) -> Iterator[None]:
    """Ray for the block: what this process is connected to already (and stays so), else the cluster of RAY_ADDRESS (set
    under `ray job submit`), else a local one that ends with the block.

    The local one has room for all actors of `compute`, needs a token that only this process and its children know, and
    dies with this process.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        _quiet_data()
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # native code would write its warnings over the progress
    if "RAY_ADDRESS" in os.environ:
        _init(address=os.environ["RAY_ADDRESS"])
    else:
        pin_authentication()
        _start_local(compute)
    import ray

    try:
        _quiet_data()
        yield
    finally:
        ray.shutdown()


def pin_authentication() -> None:
    """A token of this process's own, instead of an open port or a file in the home directory.

    Ray reads the environment when it is imported: this comes before. A mode that the user has chosen stays.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def local_cpus(compute: ComputeConfig) -> int:
    """Logical CPUs of the local cluster: those of the machine, and at least one for every actor of the chain."""
    wanted = compute.decode_actors + compute.replicas_max * max(1.0, compute.cpus_per_replica) + 1
    return max(os.cpu_count() or 1, round(wanted))


def _start_local(compute: ComputeConfig) -> None:
    os.environ.setdefault(REPORTER, "60000")  # no dashboard shows it, and every 5 s is a tenth of a core
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _init(address="local", num_cpus=local_cpus(compute), include_dashboard=False, _node_ip_address="127.0.0.1")
            return
        except Exception as err:  # Ray raises a bare Exception when a process of its own is late
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise
            log.warning("Ray did not start (%s); trying again", str(err).splitlines()[0])


def _init(**options: Any) -> None:
    """ray.init without what native code says meanwhile, and without the signal handlers that it puts over ours."""
    import ray

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _silent_stderr():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """File descriptor 2 leads nowhere inside the block; what goes wrong there is raised."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _quiet_data() -> None:
    """Progress is ours to show; Ray Data's own bars and execution notes are off, bad blocks are never dropped."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    context.max_errored_blocks = 0
    context.actor_task_retry_on_errors = False
    context.max_consecutive_actor_init_deaths = 1  # a model that cannot be loaded ends the job
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
