"""The Ray cluster of a run: the cluster to which the job was submitted, or a local one that ends with the run."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import ComputeConfig, ConfigError, ModelConfig, public
from pipeline.flow.reaper import end_all
from pipeline.flow.session import ray_folder
from pipeline.storage.errors import FULL, StorageError

log = logging.getLogger(__name__)

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": every port of Ray is open on 127.0.0.1 only
CONNECT_TRIES = "RAY_NUM_REDIS_GET_RETRIES"  # how often Ray asks an address for its cluster, about 40 s each time
CONNECT_SECONDS = 15.0  # time for the port of RAY_ADDRESS to open
REPORTER = "REPORTER_UPDATE_INTERVAL_MS"  # how often Ray's agent reads the statistics of all processes of the node
REPORTER_MS = 60_000  # Ray's default of 5,000 costs a tenth of a core
LATE = "RAY_worker_register_timeout_seconds"  # 60: on a busy machine processes are later, and Ray fails the run
TASK_EVENTS = "RAY_task_events_report_interval_ms"  # 0: it keeps no record of 3.6 kB of each of the last 100,000 tasks
LOG_FILES = "RAY_LOG_MONITOR_MAX_OPEN_FILES"  # 200: with so many, Ray's log monitor closes those of dead processes
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
    loaded = sys.modules.get("ray")
    return cluster_address() is not None or (loaded is not None and loaded.is_initialized())


def cluster_address() -> str | None:
    """The address of a running cluster that RAY_ADDRESS gives; None if it is empty, "local" or not set.

    Raises ConfigError for the address of a dashboard: jobs are submitted there, but no driver connects to it.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address.lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS: {public(address)}: an address to submit jobs to (ray job submit --address ...); "
            "a run takes HOST:6379, or nothing for this machine alone"
        )
    return address if address not in ("", "local") else None


def check_machine(model: ModelConfig, compute: ComputeConfig) -> None:
    """Raise ConfigError if the run would be on this machine, and it lacks CUDA, or the GPUs or CPUs of a replica.

    It is also raised if no cluster answers at RAY_ADDRESS. Nodes of a cluster may have what this machine lacks.
    """
    if has_cluster():
        _knock(cluster_address() or "")
        return
    cpus = os.cpu_count() or 1
    if not compute.gpus_per_replica and compute.cpus_per_replica > cpus:
        raise ConfigError(f"compute.cpus_per_replica: {compute.cpus_per_replica:g}: this machine has {cpus} CPUs")
    if model.device != "cuda" and not compute.gpus_per_replica:
        return
    import torch

    gpus = torch.cuda.device_count()
    if model.pools * compute.gpus_per_replica > gpus:
        each = f"{compute.gpus_per_replica:g}{' for each of two models' if model.pools > 1 else ''}"
        raise ConfigError(f"compute.gpus_per_replica: {each}: this machine has {gpus} GPUs")
    if model.device == "cuda" and not torch.cuda.is_available():
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
def ray_cluster(compute: ComputeConfig, pools: int = 1) -> Iterator[None]:
    """Connect to Ray for the time of the block. pools: of replicas, one for each model.

    A connection that this process already has is used, and stays. Otherwise Ray connects to RAY_ADDRESS, which
    `ray job submit` sets. Without that, a local cluster starts, which ends with the block or with this process. It has
    room for all actors of `compute`, and only this process and its children know its token.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        _configure_data()
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise a thread that still works with Ray after its end would start another one.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    # Otherwise warnings of native code appear in the middle of the progress.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with contextlib.ExitStack() as stack:
        if address := cluster_address():
            _connect(address)
        else:
            os.environ.pop("RAY_ADDRESS", None)  # it is empty, and Ray would not take that for none
            pin_authentication()
            _start_local(local_cpus(compute, pools), stack.enter_context(ray_folder()))
        stack.callback(_shut_down)
        _configure_data()
        yield


def _shut_down() -> None:
    import ray

    with _handlers_stay():
        ray.shutdown()


def _connect(address: str) -> None:
    """Connect to a running cluster. Raises ConfigError within a minute if none answers, or if it refuses."""
    _knock(address)
    os.environ.setdefault(CONNECT_TRIES, "1")
    try:
        _init(address=address)
    except Exception as err:  # noqa: BLE001 Ray raises what it likes: ConnectionError, RuntimeError, its own
        _shut_down()
        line = " ".join(str(err).split())[:300]
        raise ConfigError(f"RAY_ADDRESS: {public(address)}: no connection to this cluster: {line}") from None


def _knock(address: str) -> None:
    """Raise ConfigError if nobody listens at HOST:PORT. Other forms of an address are Ray's to understand."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
            return
        except (OSError, OverflowError) as err:
            if isinstance(err, socket.gaierror | OverflowError) or time.monotonic() > deadline:
                why = getattr(err, "strerror", None) or err
                raise ConfigError(
                    f"RAY_ADDRESS: {public(address)}: no cluster answers there: {why}; without RAY_ADDRESS a run "
                    "starts Ray on this machine"
                ) from None
            time.sleep(1)


def pin_authentication() -> None:
    """Make Ray ask for a token that only this process knows, instead of an open port or a file in the home directory.

    Call it before Ray is imported, because Ray then reads the environment. If the user has set RAY_AUTH_MODE, nothing
    changes.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def local_cpus(compute: ComputeConfig, pools: int = 1) -> int:
    """Logical CPUs of the local cluster: those of the machine, but at least enough for all actors of the chain."""
    replicas = pools * compute.replicas_max * max(1.0, compute.cpus_per_replica)
    return max(os.cpu_count() or 1, round(compute.decoders(compute.replicas_max) + replicas + 1))  # 1 in reserve


def _start_local(cpus: int, folder: Path) -> None:
    os.environ.setdefault(REPORTER, str(REPORTER_MS))  # without a dashboard nobody reads these statistics ...
    os.environ.setdefault(TASK_EVENTS, "0")  # ... nor those of tasks, with which its memory grew by 60 MB an hour
    os.environ.setdefault(LOG_FILES, "1")  # nobody reads what it sends: log_to_driver is False
    os.environ.setdefault(LOOPBACK, "0")
    os.environ.setdefault(LATE, "600")
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
            return
        except Exception as err:  # Ray raises a plain Exception if one of its processes is late
            _shut_down()
            end_all(str(folder))  # Ray leaves those that have started, and they would slow down the next attempt
            if getattr(err, "errno", None) in FULL:
                raise
            line = (str(err) or type(err).__name__).splitlines()[0]
            if attempt == START_ATTEMPTS:
                again = "when it is less busy, the same command goes on"
                raise StorageError(f"Ray did not start on this machine, {attempt} times: {line}; {again}") from err
            log.warning("Ray did not start (%s); trying again", line)


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
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised, and said once
