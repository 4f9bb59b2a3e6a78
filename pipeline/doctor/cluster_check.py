"""Ray: the cluster of RAY_ADDRESS, whether the run fits on it, and the checks of each of its nodes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from pipeline.config import ComputeConfig, ConfigError, RunConfig
from pipeline.doctor.hardware import gpu_facts
from pipeline.doctor.rows import Result, without_secrets
from pipeline.flow.cluster import Node, alive_nodes, check_machine, free_resources, local_cpus, on_every_node
from pipeline.flow.placement import decoders, lack, replicas_that_fit

NODE_SECONDS = 300.0
SKEW = 5.0  # seconds between the clocks of two nodes; with more, logs and the times of commits are hard to read


def overview(config: RunConfig) -> Iterator[Result]:
    """Rows about the nodes, their CPUs and GPUs, and whether the replicas of the config fit on them."""
    nodes = alive_nodes()
    free_cpus, free_gpus = free_resources()
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    offered = f"{len(nodes)} nodes, {cpus:g} CPUs ({free_cpus:g} free), {gpus:g} GPUs ({free_gpus:g} free)"
    yield Result("ray", "ok", f"ray {metadata.version('ray')}: {offered}")
    sizes = [(node.cpus, node.gpus) for node in nodes]
    yield placement(sizes, config.compute, config.model.device, config.model.pools)


def on_this_machine(config: RunConfig) -> Iterator[Result]:
    """The same rows for the Ray that a run starts on this machine if there is no cluster."""
    yield Result("ray", "ok", f"ray {metadata.version('ray')}; no RAY_ADDRESS: a run starts it on this machine")
    try:
        check_machine(config.model, config.compute)
    except ConfigError as err:
        yield Result("placement", "FAIL", str(err), "what the line names, or another machine")
        return
    gpus = len(gpu_facts()["devices"])
    pools = config.model.pools
    nodes = [(float(local_cpus(config.compute, pools)), float(gpus))]
    yield placement(nodes, config.compute, config.model.device, pools)


def placement(nodes: Sequence[tuple[float, float]], compute: ComputeConfig, device: str, pools: int = 1) -> Result:
    """The row that says whether decoders and replicas fit on nodes of (CPUs, GPUs) where nothing else runs.

    pools: of replicas, one for each model.
    """
    if lacking := lack(nodes, compute, pools):
        finding = f"{lacking.key}: a run needs {lacking.wanted}; {lacking.there}"
        return Result("placement", "FAIL", finding, f"a smaller {lacking.key}, or other nodes")
    fit, most = replicas_that_fit(nodes, compute), pools * compute.replicas_max
    each = f"{compute.gpus_per_replica:g} GPU" if compute.gpus_per_replica else f"{compute.cpus_per_replica:g} CPU"
    models = f"{pools} x " if pools > 1 else ""
    wanted = f"{models}compute.replicas_max={compute.replicas_max}"
    finding = f"{fit} of {wanted} replicas fit ({each} each), beside {decoders(compute)}"
    if device == "cuda" and not compute.gpus_per_replica:
        advice = "compute.gpus_per_replica=1, or all replicas may meet on one GPU"
        return Result("placement", "warn", "model.device=cuda with compute.gpus_per_replica=0", advice)
    if fit < most:
        return Result("placement", "warn", finding, "the job runs with as many as fit")
    return Result("placement", "ok", finding)


def on_nodes(
    config: RunConfig, machine: Callable[[dict[str, Any], int, bool], tuple[float, list[dict[str, Any]]]]
) -> Iterator[Result]:
    """Run `machine(config, GPUs that must be there, True)` on every node. Yields its rows, nodes ordered by address."""
    asks = bool(config.compute.gpus_per_replica) and config.model.device != "cpu"
    plain = config.model_dump(mode="json")
    nodes = alive_nodes()
    sent = time.time()
    answers: dict[Node, list[Result]] = {}
    arguments = {node: (plain, math.floor(node.gpus) if asks else 0, True) for node in nodes}
    for node, answer in on_every_node(machine, arguments, NODE_SECONDS):
        name = node.address if [other.address for other in nodes].count(node.address) == 1 else _both(node)
        if isinstance(answer, BaseException):
            last = str(answer).strip().splitlines()[-1:] or [type(answer).__name__]
            advice = "the same image and packages on every node; `ray status`"
            answers[node] = [Result("node", "FAIL", without_secrets(last[0]), advice, name)]
            continue
        theirs, rows = answer
        skew = max(0.0, sent - theirs, theirs - time.time())
        answers[node] = [Result(**(row | {"node": name})) for row in rows]
        if skew > SKEW:
            answers[node].append(Result("clock", "warn", f"{skew:.0f} s from this machine's", "chrony or ntpd", name))
    for node in nodes:
        yield from answers[node]


def as_plain(rows: list[Result]) -> list[dict[str, Any]]:
    """Rows as plain values, which travel between processes."""
    return [asdict(row) for row in rows]


def _both(node: Node) -> str:
    """The address and the start of the id, for two nodes on one machine."""
    return f"{node.address} {node.id[:6]}"
