"""All checks, in their order: this machine or every node of the cluster; model and storage; Ray."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from pipeline.config import RunConfig
from pipeline.doctor import cluster_check, disks, hardware, model_check, storage_check
from pipeline.doctor.cluster_check import NODE_SECONDS
from pipeline.doctor.rows import Check, Result, guarded
from pipeline.doctor.settings import DoctorConfig
from pipeline.flow.cluster import has_cluster, ray_cluster

SECONDS = 60.0  # for a check of this machine, or of a store that works
HASH_SECONDS = 1800.0  # 52 GB at 30 MB/s
RAY_SECONDS = 120.0
LISTING_SECONDS = 900.0  # of a source with millions of objects


def examine_machine(
    config: DoctorConfig, starting: Callable[[str], None] = lambda _: None, *, limit: float = math.inf
) -> list[Result]:
    """Run every check and return its rows.

    starting: called with the name of each check before it runs. limit: seconds that a check may take at most.
    """
    rows: list[Result] = []
    cluster = has_cluster()

    def run(name: str, check: Check, seconds: float = SECONDS) -> None:
        starting(name)
        rows.extend(guarded(name, check, seconds=min(seconds, limit)))

    if not cluster:
        for name, check, seconds in machine_checks(config, hardware.gpus_wanted(config), node=False):
            run(name, check, seconds)
    run("model", partial(model_check.files, config), HASH_SECONDS)
    run("model adapter", partial(model_check.adapter, config), 2 * SECONDS)
    if not cluster:
        run("model memory", partial(model_check.memory, config), 2 * SECONDS)
    run("hub", partial(model_check.hub_access, config))
    run("source", partial(storage_check.source, config), 2 * SECONDS)
    run("source plan", partial(storage_check.growth, config), LISTING_SECONDS)
    run("output", partial(storage_check.output, config), 2 * SECONDS)
    if not [row for row in rows if row.check == "output" and row.state == "FAIL"]:
        run("output race", partial(storage_check.race, config), 2 * SECONDS)
    if not cluster:
        run("ray", partial(cluster_check.on_this_machine, config))
        return rows
    with contextlib.ExitStack() as stack:

        def connect() -> Iterable[Result]:
            stack.enter_context(ray_cluster(config.compute, config.model.pools))
            return cluster_check.overview(config)

        run("ray", connect, RAY_SECONDS)
        if not [row for row in rows if row.check == "ray" and row.state == "FAIL"]:
            run("nodes", partial(cluster_check.on_nodes, config, machine), NODE_SECONDS + RAY_SECONDS)
    return rows


def machine(config: dict[str, Any], gpus: int, node: bool) -> tuple[float, list[dict[str, Any]]]:
    """Run the checks of one node of a cluster, on that node. gpus: how many must be there.

    Returns its time (seconds since 1970) and its rows as plain values.
    """
    now = time.time()
    rows: list[Result] = []
    for name, check, seconds in machine_checks(DoctorConfig.model_validate(config), gpus, node=node):
        rows += guarded(name, check, seconds=seconds)
    return now, cluster_check.as_plain(rows)


def machine_checks(config: RunConfig, gpus: int, *, node: bool) -> Iterator[tuple[str, Check, float]]:
    """Yield the checks of a machine: name, check, seconds that it may take.

    node: the machine is a node of a cluster; it must then reach model, source and output as the driver does.
    """
    yield "packages", hardware.packages, SECONDS
    yield "gpu", lambda: hardware.gpu_rows(hardware.gpu_facts(), wanted=gpus), 2 * SECONDS
    yield "memory", hardware.memory, SECONDS
    yield "open files", hardware.limits, SECONDS
    yield "disk", lambda: disks.check(disks.places(config)), 2 * SECONDS
    yield "decoders", hardware.decoders, SECONDS
    if node:
        yield "model", partial(model_check.present, config), SECONDS
        yield "source", partial(storage_check.source, config), 2 * SECONDS
        yield "output", partial(storage_check.output, config), 2 * SECONDS
        if gpus:
            yield "model memory", partial(model_check.memory, config), 2 * SECONDS
