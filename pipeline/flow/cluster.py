"""The Ray cluster of a run: the cluster to which the job was submitted, or a local one that ends with the run."""

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

from pipeline.config import ComputeConfig, ConfigError, ModelConfig, public

log = logging.getLogger(__name__)

REPORTER = "REPORTER_UPDATE_INTERVAL_MS"  # how often Ray's agent reads the statistics of all processes of the node
REPORTER_MS = 60_000  # Ray's default of 5,000 costs a tenth of a core
START_ATTEMPTS = 3  # on a busy machine a raylet may need more than 30 s; then ray.init fails


@dataclass(frozen=True, slots=True)
class Node:
    """A living node of the cluster, with all its CPUs and GPUs, also those in use."""

    id: str
    address: str
    cpus: float
    gpus: float


def has_cluster() -> bool:
    """Whether `ray_cluster` would use a running cluster instead of starting one."""
    return cluster_address() is not None or ("ray" in sys.modules and sys.modules["ray"].is_initialized())


def cluster_address() -> str | None:
    """The address of a running cluster that RAY_ADDRESS gives; None if it is empty or not set.

    Raises ConfigError for the address of a dashboard: jobs are submitted there, but no driver connects to it.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address.lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS: {public(address)}: an address to submit jobs to (ray job submit --address ...); "
            "a run takes HOST:6379, or nothing for this machine alone"
        )
    return address or None


def check_device(model: ModelConfig) -> None:
    """Raise ConfigError if the model needs CUDA, and the run would be on this machine, which has none.

    It is also raised if RAY_ADDRESS is no address of a cluster. Nodes of a cluster may have GPUs that this machine
    lacks: there each replica looks for itself.
    """
    cluster_address()  # that of a dashboard is an error
    if model.device != "cuda" or has_cluster():
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("model.device: cuda: torch finds no CUDA device on this machine; use auto or cpu")


def alive_nodes() -> list[Node]:
    """The living nodes, sorted by address. This and the next two functions need a running Ray."""
    import ray

    alive = [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            float(node["Resources"].get("CPU", 0)),
            float(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(alive, key=lambda node: (node.address, node.id))


def free_resources() -> tuple[float, float]:
    """The CPUs and GPUs that are free at the moment, in the whole cluster."""
    import ray

    free = ray.available_resources()
    return float(free.get("CPU", 0)), float(free.get("GPU", 0))


def on_every_node(
    function: Callable[..., Any], arguments: dict[Node, tuple[Any, ...]], seconds: float
) -> Iterator[Any]:
    """Run a function once on each node. Yields (node, result) in the order in which the nodes answer.

    arguments: for each node the arguments of its call. The function reserves no CPU and no GPU. If it fails, the result
    is Ray's exception; if a node has not answered after `seconds`, the result is a TimeoutError.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(function)
    waiting = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(*values): node
        for node, values in arguments.items()
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
    for answer, node in waiting.items():
        ray.cancel(answer, force=True)
        yield node, TimeoutError(f"no answer within {seconds:g} s")


@contextlib.contextmanager
def ray_cluster(compute: ComputeConfig) -> Iterator[None]:
    """Connect to Ray for the time of the block.

    A connection that this process already has is used, and stays. Otherwise Ray connects to RAY_ADDRESS, which
    `ray job submit` sets. Without that, a local cluster starts, which ends with the block or with this process. It has
    room for all actors of `compute`, and only this process and its children know its token.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        _configure_data()
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise warnings of native code appear in the middle of the progress.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address := cluster_address():
        _init(address=address)
    else:
        os.environ.pop("RAY_ADDRESS", None)  # it is empty, and Ray would not take that for none
        pin_authentication()
        _start_local(compute)
    import ray

    try:
        _configure_data()
        yield
    finally:
        with _handlers_stay():
            ray.shutdown()


def pin_authentication() -> None:
    """Make Ray ask for a token that only this process knows, instead of an open port or a file in the home directory.

    Call it before Ray is imported, because Ray then reads the environment. If the user has set RAY_AUTH_MODE, nothing
    changes.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def local_cpus(compute: ComputeConfig) -> int:
    """Logical CPUs of the local cluster: those of the machine, but at least enough for all actors of the chain."""
    wanted = compute.decode_actors + compute.replicas_max * max(1.0, compute.cpus_per_replica) + 1  # 1 in reserve
    return max(os.cpu_count() or 1, round(wanted))


def _start_local(compute: ComputeConfig) -> None:
    os.environ.setdefault(REPORTER, str(REPORTER_MS))  # without a dashboard nobody reads these statistics
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _init(address="local", num_cpus=local_cpus(compute), include_dashboard=False, _node_ip_address="127.0.0.1")
            return
        except Exception as err:  # Ray raises a plain Exception if one of its processes is late
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise
            log.warning("Ray did not start (%s); trying again", str(err).splitlines()[0])


def _init(**options: Any) -> None:
    """ray.init without the output of native code."""
    import ray

    with _handlers_stay(), _silent_stderr():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


@contextlib.contextmanager
def _handlers_stay() -> Iterator[None]:
    """Restore the signal handlers that Ray replaces when it starts, and removes when it ends."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard everything that is written to file descriptor 2 inside the block. Errors are raised as exceptions."""
    sys.stderr.flush()
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)


def _configure_data() -> None:
    """Ray Data shows no progress bars and no notes, because we show progress. It never drops a failed block."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    context.max_errored_blocks = 0
    context.actor_task_retry_on_errors = False
    context.max_consecutive_actor_init_deaths = 1  # if a model cannot be loaded, the job ends
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
