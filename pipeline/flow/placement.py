"""Whether the actors of a run find a place on the nodes of a cluster: before it starts, and while it waits."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.config import ComputeConfig, ConfigError
from pipeline.flow.cluster import alive_nodes

REPORT = b"__autoscaling_status"  # where Ray's monitor writes which types of nodes there are
SECONDS = 30.0  # between two looks at a cluster from which nothing comes
CLOSE_SECONDS = 1.0  # Ray may be shut down when its results are no longer fetched
LOST_SECONDS = 300.0  # a cluster without autoscaler may lack for so long what it had before: nodes start again
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lack:
    """What a run needs and no node has, as "1 GPU" and "the cluster has 0". key: the setting that asks for it."""

    key: str
    wanted: str
    there: str


def lack(nodes: Sequence[tuple[float, float]], compute: ComputeConfig, pools: int = 1) -> Lack | None:
    """What nodes of (CPUs, GPUs) lack for one replica of each pool and the decoders beside; None if these fit."""
    cpus, gpus = sum(cpus for cpus, _ in nodes), sum(gpus for _, gpus in nodes)
    if compute.gpus_per_replica and replicas_that_fit(nodes, compute) < pools:
        wanted = _counted(compute.gpus_per_replica, "GPU") + _for_each(pools)
        return Lack("compute.gpus_per_replica", *_short(wanted, gpus, pools * compute.gpus_per_replica))
    largest = max((cpus for cpus, _ in nodes), default=0.0)
    if not compute.gpus_per_replica and largest < compute.cpus_per_replica:
        return Lack(
            "compute.cpus_per_replica",
            f"{_counted(compute.cpus_per_replica, 'CPU')} on one node",
            f"the largest node of the cluster has {largest:g}" if len(nodes) > 1 else f"the cluster has {largest:g}",
        )
    if cpus < compute.decoders(1) or replicas_that_fit(nodes, compute) < pools:
        needed = compute.decoders(1) + (0 if compute.gpus_per_replica else pools * compute.cpus_per_replica)
        return Lack("compute.decode_actors", _counted(needed, "CPU"), f"the cluster has {cpus:g}")
    return None


def replicas_that_fit(nodes: Sequence[tuple[float, float]], compute: ComputeConfig) -> int:
    """How many replicas run on nodes of (CPUs, GPUs) at once. A replica never uses two nodes."""
    if compute.gpus_per_replica:
        per_gpu = math.floor(1 / compute.gpus_per_replica + 1e-9)
        if per_gpu >= 1:  # a part of a GPU is a part of one GPU
            return sum(math.floor(gpus) * per_gpu for _, gpus in nodes)
        return sum(math.floor(gpus / compute.gpus_per_replica) for _, gpus in nodes)
    if not compute.cpus_per_replica:
        return compute.replicas_max
    spread = sorted((cpus for cpus, _ in nodes), reverse=True)
    left = float(compute.decoders(1))
    for index, cpus in enumerate(spread):  # decoders take CPUs that no replica can use, on the largest nodes first
        taken = min(left, cpus % compute.cpus_per_replica)
        spread[index], left = cpus - taken, left - taken
    whole = sum(math.floor(cpus / compute.cpus_per_replica) for cpus in spread)
    return max(0, whole - math.ceil(left / compute.cpus_per_replica))


def decoders(compute: ComputeConfig) -> str:
    """How many processes of a run decode: "1 decode actor", "2 to 16 decode actors"."""
    least, most = compute.decoders(compute.replicas_min), compute.decoders(compute.replicas_max)
    return f"{least if least == most else f'{least} to {most}'} decode actor{'s' * (most > 1)}"


class Placement:
    """Looks whether the cluster to which this process is connected has a place for the actors of a run."""

    def __init__(self, compute: ComputeConfig, pools: int = 1) -> None:
        """pools: of replicas, one for each model."""
        self._compute, self._pools = compute, pools
        self._lacking_since: float | None = None

    def before(self) -> None:
        """Raise ConfigError if no node has what a replica needs, and no autoscaler may bring one."""
        found = self._lack()
        if found is None:
            return
        if not may_grow():
            raise ConfigError(f"{found.key}: a run needs {found.wanted}; {found.there}, and no autoscaler brings more")
        log.warning("waiting for %s; %s", found.wanted, found.there)

    def during(self, has_begun: bool) -> None:
        """Say what the run waits for, if a node is missing or other jobs have it. has_begun: some unit came back.

        Raises ConfigError if a cluster without autoscaler has lacked it for LOST_SECONDS.
        """
        found = self._lack()
        if found is None:
            self._lacking_since = None
            if not has_begun and (pending := _pending()):
                log.warning("waiting for %s; all that the cluster has of it is in use", pending)
            return
        log.warning("waiting for %s; %s", found.wanted, found.there)
        self._lacking_since = self._lacking_since or time.monotonic()
        if time.monotonic() - self._lacking_since > LOST_SECONDS and not may_grow():
            raise ConfigError(f"{found.key}: a run needs {found.wanted}; {found.there} since {LOST_SECONDS:g} s")

    def _lack(self) -> Lack | None:
        return lack([(node.cpus, node.gpus) for node in alive_nodes()], self._compute, self._pools)


def watched(items: Iterator[T], look: Callable[[bool], None], seconds: float = SECONDS) -> Generator[T, None, None]:
    """Yield the same items. While none comes, call `look(whether one came before)` every `seconds`; it may raise.

    Where the block that uses them closes this generator, `items` end too, at the next one; it waits CLOSE_SECONDS for
    that. What fails afterwards is nobody's error.
    """
    arrived: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    closed = threading.Event()

    def fetch() -> None:
        try:
            for item in items:
                if closed.is_set():
                    break
                arrived.put(("item", item))
            arrived.put(("end", None))
        except BaseException as err:  # noqa: BLE001 it is raised where the items are used
            arrived.put(("error", err))
        if isinstance(items, Generator):
            with contextlib.suppress(Exception):
                items.close()

    fetching = threading.Thread(target=fetch, daemon=True, name="results")
    fetching.start()
    try:
        yield from _arriving(arrived, look, seconds)
    finally:
        closed.set()
        fetching.join(CLOSE_SECONDS)


def _arriving(
    arrived: queue.SimpleQueue[tuple[str, Any]], look: Callable[[bool], None], seconds: float
) -> Iterator[Any]:
    has_begun = False
    while True:
        try:
            kind, value = arrived.get(timeout=seconds)
        except queue.Empty:
            look(has_begun)
            continue
        if kind == "error":
            raise value
        if kind == "end":
            return
        has_begun = True
        yield value


def may_grow() -> bool:
    """Whether an autoscaler may bring nodes: it names the types of its nodes. Without one the type is the node's id."""
    from ray.experimental.internal_kv import _internal_kv_get

    status = _status()
    kinds = {node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
    report = json.loads(_internal_kv_get(REPORT) or b"{}").get("autoscaler_report") or {}
    kinds |= set(report.get("active_nodes") or ())
    named = [kind for kind in kinds if kind and not kind.startswith("node_")]
    return bool(status.pending_launches or status.pending_nodes or named)


def _pending() -> str:
    """What the actors need that have no place yet: "1 GPU"; "" if all have one."""
    demands = _status().resource_demands.ray_task_actor_demand
    bundles = [by_count.bundle for demand in demands for by_count in demand.bundles_by_count]
    needed: dict[str, float] = max(bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)), default={})
    kind = "GPU" if needed.get("GPU") else "CPU"
    return _counted(needed[kind], kind) if needed.get(kind) else ""


def _status() -> Any:
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    return get_cluster_status(ray.get_runtime_context().gcs_address)


def _counted(number: float, kind: str) -> str:
    return f"{number:g} {kind}{'' if number <= 1 else 's'}"


def _for_each(pools: int) -> str:
    return " for each of two models" if pools > 1 else ""


def _short(wanted: str, total: float, each: float) -> tuple[str, str]:
    """What is wanted and what is there, if no single node has enough."""
    if total >= each:
        return f"{wanted} on one node", "no node of the cluster has so many"
    return wanted, f"the cluster has {total:g}"
