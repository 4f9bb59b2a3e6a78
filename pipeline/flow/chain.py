"""The whole Ray Data chain, top to bottom: units to do go in, receipts of committed units come out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.audio.stage import DecodeStage
from pipeline.config import ComputeConfig, RunConfig
from pipeline.flow.guard import GuardedDecoder, GuardedReplica, MeteredCommit
from pipeline.flow.suspects import Cell, alone, users_error
from pipeline.output.stage import CommitStage
from pipeline.schemas import TODO, About, Place, to_table

# A unit that always crashes its process must not loop for ever: from the fourth attempt on it is a suspect
# (output/attempts.py). So a job reaches these limits only where the machine or the model itself is broken.
MAX_RESTARTS = 64  # of one actor
MAX_TASK_RETRIES = 64  # of one block in one stage, its neighbours' crashes included
MAX_BLOCKS = 10_000  # of units on the way in: with one block for each of a million units the driver needs gigabytes


def run_units(config: RunConfig, about: About, units: pa.Table) -> Iterator[dict[str, Any]]:
    """Transcribe and commit units; yields rows of RECEIPT (output/stage.py) as they come, none of them a suspect.

    units: rows of schemas.TODO. Ray must be running. Raises ConfigError, OutputError and OSError where a user can mend
    the cause, else Ray's error with the traceback of the actor.
    """
    suspects: dict[str, dict[str, Any]] = {}  # by unit: several pieces of one unit may be suspects
    try:
        receipts: Iterable[pa.Table] = chain(config, about, units).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        )
        for table in receipts:
            for receipt in table.to_pylist():
                if receipt["suspect"]:
                    suspects[receipt["unit_id"]] = {name: receipt[name] for name in TODO.names}
                else:
                    yield receipt
        if suspects:
            yield from one_by_one(config, about, to_table(suspects.values(), TODO))
    except RayError as err:
        raise users_error(err) or err from None


def chain(config: RunConfig, about: About, units: pa.Table) -> ray.data.Dataset:
    """Decode, recognise, commit. One row, one block, is a unit or a piece of it: its segments stay together."""
    # A block ends after each row: memory is bounded by pieces, and row k of a decoder is block k (see GuardedDecoder).
    ray.data.DataContext.get_current().target_max_block_size = 1
    # Ray 2.60 announces the end of max_restarts and max_task_retries as arguments, and has no replacement yet.
    warnings.filterwarnings("ignore", message=".*ray_remote_args", category=RayDeprecationWarning)
    compute = config.compute
    replicas = ActorPoolStrategy(
        min_size=compute.replicas_min,
        max_size=max(compute.replicas_min, compute.replicas_max),
        max_concurrent_calls_per_actor=compute.units_in_flight,
        max_tasks_in_flight_per_actor=2 * compute.units_in_flight,
    )
    decoders = ActorPoolStrategy(size=compute.decode_actors, max_tasks_in_flight_per_actor=2)
    stage: dict[str, Any] = {
        "fn_constructor_args": (config, about),
        "batch_size": 1,
        "batch_format": "pyarrow",
        "max_restarts": MAX_RESTARTS,
        "max_task_retries": MAX_TASK_RETRIES,
    }
    return (
        ray.data.from_arrow(_blocks(units))
        .map_batches(GuardedDecoder, compute=decoders, num_cpus=1, **stage)
        .map_batches(GuardedReplica, compute=replicas, **replica_resources(compute), **stage)
        .map_batches(MeteredCommit, compute=ActorPoolStrategy(size=1), num_cpus=0, **stage)
    )


def one_by_one(config: RunConfig, about: About, suspects: pa.Table) -> Iterator[dict[str, Any]]:
    """The same stages for units that crashed their process; every recording runs in a process that it may crash.

    suspects: rows of schemas.TODO. Yields rows of RECEIPT.
    """
    from pipeline.model.stage import Replica  # torch: only where there are suspects

    def cell(name: str, stage: type, resources: dict[str, Any]) -> Cell:
        remote: Any = ray.remote(stage).options(max_restarts=0, max_task_retries=0, **resources)
        return Cell(name, lambda: remote.remote(config, about), config.compute.unit_timeout_seconds)

    decoder = cell("decoder", DecodeStage, {"num_cpus": 1})
    model = cell("model", Replica, replica_resources(config.compute))
    commit = CommitStage(config, about)
    tasks = [(row["unit_id"], Place(**row["place"])) for row in suspects.to_pylist()]
    units = ((commit.plans.unit(unit_id, place), place) for unit_id, place in tasks)
    for unit, place, recordings, results in alone(units, decoder, model):
        yield commit.commit_row(unit, place, recordings, results)


def replica_resources(compute: ComputeConfig) -> dict[str, Any]:
    """What a replica occupies: GPUs, or CPUs where it needs no GPU."""
    return (
        {"num_gpus": compute.gpus_per_replica} if compute.gpus_per_replica else {"num_cpus": compute.cpus_per_replica}
    )


def _blocks(units: pa.Table) -> list[pa.Table]:
    """At most MAX_BLOCKS tables of about the same length."""
    rows = -(-len(units) // MAX_BLOCKS)
    return [units.slice(start, rows) for start in range(0, len(units), rows)]
