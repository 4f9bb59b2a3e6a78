"""The whole Ray Data chain, from top to bottom: units that are left to do go in, receipts of commits come out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.audio.stage import DecodeStage
from pipeline.config import ComputeConfig, RunConfig
from pipeline.flow import metrics
from pipeline.flow.bundles import Bundles, rows_of
from pipeline.flow.guard import GuardedDecoder, GuardedReplica, GuardedSecond, MeteredCommit
from pipeline.flow.suspects import Cell, run_alone, users_error
from pipeline.output.stage import COMMITS_AT_ONCE, CommitStage
from pipeline.schemas import UNIT_LEFT, About, Place, to_table

# A unit that crashes its process each time becomes a suspect at its fourth attempt (output/attempts.py). So a job
# reaches these two limits only if the machine or the model itself is broken.
MAX_RESTARTS = 256  # of one actor
MAX_TASK_RETRIES = 256  # of one bundle in one stage, also after crashes that its neighbours cause


def run_units(config: RunConfig, about: About, units: pa.Table, seconds: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Transcribe and commit units. Yields rows of RECEIPT (output/stage.py) as soon as they come; none is a suspect.

    units: rows of schemas.UNIT_LEFT. seconds: of audio of each, as planned. Ray must be running. Raises ConfigError,
    OutputError or StorageError if that is the cause; otherwise Ray's error with the traceback of the actor.
    """
    left, units_left = len(units), metrics.make("units_left")
    units_left.set(left)
    for receipt in _receipts(config, about, units, seconds):
        left -= receipt["done"]
        units_left.set(left)
        yield receipt


def _receipts(config: RunConfig, about: About, units: pa.Table, seconds: Sequence[float]) -> Iterator[dict[str, Any]]:
    """As `run_units`: units of the chain, and then those that crashed it."""
    suspects: dict[str, dict[str, Any]] = {}  # by unit id, because several pieces of one unit may be suspects
    try:
        blocks: Iterable[pa.Table] = build_chain(config, about, units, seconds).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        )
        for block in blocks:
            for receipt in rows_of(block).to_pylist():
                if receipt["suspect"]:
                    suspects[receipt["unit_id"]] = {name: receipt[name] for name in UNIT_LEFT.names}
                else:
                    yield receipt
        if suspects:
            yield from one_by_one(config, about, to_table(suspects.values(), UNIT_LEFT))
    except RayError as err:
        raise users_error(err) or err from None


def build_chain(config: RunConfig, about: About, units: pa.Table, seconds: Sequence[float]) -> ray.data.Dataset:
    """Decode, recognise, commit. A block is a bundle of units; of a long unit, each piece ends a block.

    With model.second, a second pool of as many replicas recognises the same audio: it goes on with the results of the
    first, and Ray frees the block in which it came.
    """
    # A block ends after each row, and a row has what belongs together: see `as_block` and GuardedDecoder.
    ray.data.DataContext.get_current().target_max_block_size = 1
    # Ray 2.60 warns that it will remove the arguments max_restarts and max_task_retries, but has no replacement yet.
    warnings.filterwarnings("ignore", message=".*ray_remote_args", category=RayDeprecationWarning)
    compute = config.compute
    replicas = [GuardedReplica] if config.model.second is None else [GuardedReplica, GuardedSecond]
    decoders = ActorPoolStrategy(
        min_size=compute.decoders(compute.replicas_min),
        max_size=compute.decoders(compute.replicas_max),
        max_tasks_in_flight_per_actor=2,
    )
    workers = max(compute.decoders(compute.replicas_max), compute.replicas_max)
    finisher = ActorPoolStrategy(  # one, since all pieces of a unit must come to the same one
        size=1,
        enable_true_multi_threading=True,
        max_concurrent_calls_per_actor=COMMITS_AT_ONCE,
        max_tasks_in_flight_per_actor=2 * COMMITS_AT_ONCE,
    )
    stage: dict[str, Any] = {
        "fn_constructor_args": (config, about),
        "batch_size": 1,  # a call gets a block of `as_block`, which is one row; with GPUs Ray wants a number
        "batch_format": "pyarrow",
        "max_restarts": MAX_RESTARTS,
        "max_task_retries": MAX_TASK_RETRIES,
    }
    bundles = Bundles(units, seconds, workers)
    rows = ray.data.read_datasource(bundles, override_num_blocks=len(bundles.tasks), concurrency=1, num_cpus=0)
    rows = rows.map_batches(GuardedDecoder, compute=decoders, num_cpus=1, **stage)
    for guarded in replicas:
        rows = rows.map_batches(guarded, compute=_pool(compute), **replica_resources(compute), **stage)
    return rows.map_batches(MeteredCommit, compute=finisher, num_cpus=0, **stage)


def _pool(compute: ComputeConfig) -> ActorPoolStrategy:
    """The replicas of one model."""
    return ActorPoolStrategy(
        min_size=compute.replicas_min,
        max_size=compute.replicas_max,
        max_concurrent_calls_per_actor=compute.units_in_flight,
        max_tasks_in_flight_per_actor=2 * compute.units_in_flight,  # below 1.75 times Ray never adds a replica
    )


def one_by_one(config: RunConfig, about: About, suspects: pa.Table) -> Iterator[dict[str, Any]]:
    """Transcribe and commit units that crashed their process. Each recording runs alone through the same stages.

    model.second does not hear them, so its signals are null. suspects: rows of schemas.UNIT_LEFT. Yields rows of
    RECEIPT.
    """
    from pipeline.model.stage import Replica  # imports torch, so only if there are suspects

    config = config.model_copy(update={"model": config.model.model_copy(update={"second": None})})

    def cell(name: str, stage: type, resources: dict[str, Any]) -> Cell:
        remote: Any = ray.remote(stage).options(max_restarts=0, max_task_retries=0, **resources)
        return Cell(name, lambda: remote.remote(config, about), config.compute.unit_timeout_seconds)

    decoder = cell("decoder", DecodeStage, {"num_cpus": 1})
    model = cell("model", Replica, replica_resources(config.compute))
    commit, counted = CommitStage(config, about), metrics.CommitMetrics()
    tasks = [(row["unit_id"], Place(**row["place"])) for row in suspects.to_pylist()]
    units = ((commit.plans.unit(unit_id, place), place) for unit_id, place in tasks)
    for unit, place, recordings, results in run_alone(units, decoder, model):
        receipt = commit.commit_row(unit, place, recordings, results)
        counted.receipt(receipt)
        counted.report()
        yield receipt


def replica_resources(compute: ComputeConfig) -> dict[str, Any]:
    """The resources that Ray reserves for a replica: GPUs, or CPUs if it needs no GPU."""
    return (
        {"num_gpus": compute.gpus_per_replica} if compute.gpus_per_replica else {"num_cpus": compute.cpus_per_replica}
    )
