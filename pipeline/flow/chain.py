"""The whole Ray Data chain, top to bottom: units to do go in, receipts of committed units come out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.audio.stage import Decoder
from pipeline.config import ComputeConfig, RunConfig
from pipeline.flow.guard import GuardedDecoder, GuardedReplica
from pipeline.flow.suspects import Cell, alone, users_error
from pipeline.output.stage import Finisher

# A unit that always kills its process must not loop for ever: it is a suspect from the fourth attempt on (attempts.py).
# So these bounds are met only where the machine or the model itself is broken, and then the job fails.
MAX_RESTARTS = 64  # of one actor
MAX_TASK_RETRIES = 64  # of one block in one stage, its neighbours' crashes included
MAX_BLOCKS = 10_000  # of units on the way in: a million of one unit each would cost the driver gigabytes


@dataclass(frozen=True, slots=True)
class Stages:
    """What the stages must know besides the config."""

    window_seconds: float
    languages: tuple[str, ...]
    model: str  # as written to the transcripts
    fingerprint: str


def run_units(config: RunConfig, stages: Stages, units: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Transcribe and commit units (JSON of WorkUnit); yields rows of finish.RECEIPT, `suspect` False, as they come.

    Ray must be running. Raises what a stage raises that is no fault of a single recording: ConfigError and OutputError
    as such, anything else as Ray's error with the traceback of the actor.
    """
    suspects: dict[str, str] = {}  # id -> unit: several parts of one may be suspects
    try:
        receipts: Iterable[Any] = chain(config, stages, units).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        )
        for table in receipts:
            for receipt in table.to_pylist():
                if receipt["suspect"]:
                    suspects[receipt["unit_id"]] = receipt["unit"]
                else:
                    yield receipt
        if suspects:
            yield from one_by_one(config, stages, list(suspects.values()))
    except RayError as err:
        raise users_error(str(err)) or err from None


def chain(config: RunConfig, stages: Stages, units: Sequence[str]) -> ray.data.Dataset:
    """From decoding to commit one row, one block, is one unit or a part of one: its segments meet again unshuffled."""
    # A block ends after each row: memory is bounded by parts, and row k of a decoder is block k (see GuardedDecoder).
    ray.data.DataContext.get_current().target_max_block_size = 1
    # Ray 2.60 announces an end of max_restarts and max_task_retries as arguments, and has nothing in their place yet.
    warnings.filterwarnings("ignore", message=".*ray_remote_args", category=RayDeprecationWarning)
    compute = config.compute
    return (
        ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=min(len(units), MAX_BLOCKS))
        .map_batches(
            GuardedDecoder,
            fn_constructor_kwargs={
                "config": _plain(config),
                "window_seconds": stages.window_seconds,
                "languages": stages.languages,
            },
            compute=ActorPoolStrategy(size=compute.decode_actors, max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            **_one_unit_a_call(),
        )
        .map_batches(
            GuardedReplica,
            fn_constructor_kwargs={"config": _plain(config)},
            compute=ActorPoolStrategy(
                min_size=compute.replicas_min,
                max_size=max(compute.replicas_min, compute.replicas_max),
                max_concurrent_calls_per_actor=compute.units_in_flight,
                max_tasks_in_flight_per_actor=2 * compute.units_in_flight,
            ),
            **replica_resources(compute),
            **_one_unit_a_call(),
        )
        .map_batches(
            Finisher,
            fn_constructor_kwargs=_finisher_settings(config, stages),
            compute=ActorPoolStrategy(size=1),
            num_cpus=0,
            **_one_unit_a_call(),
        )
    )


def one_by_one(config: RunConfig, stages: Stages, suspects: list[str]) -> Iterator[dict[str, Any]]:
    """The same three stages for units that broke their process, every recording in a process that it may break."""
    from pipeline.model.stage import Replica

    def start(stage: type, resources: dict[str, Any], **settings: Any) -> Any:
        return ray.remote(stage).options(max_restarts=0, max_task_retries=0, **resources).remote(**settings)

    heard = {"window_seconds": stages.window_seconds, "languages": stages.languages}
    seconds = config.compute.unit_timeout_seconds
    decoder = Cell("decoder", lambda: start(Decoder, {"num_cpus": 1}, config=config, **heard), seconds)
    model = Cell("model", lambda: start(Replica, replica_resources(config.compute), config=_plain(config)), seconds)
    finisher = Finisher(**_finisher_settings(config, stages))
    for unit, recordings, results in alone(suspects, decoder, model):
        yield finisher.commit_row(unit, recordings, results)


def _finisher_settings(config: RunConfig, stages: Stages) -> dict[str, Any]:
    return {
        "output_uri": config.output.uri,
        "model": stages.model,
        "fingerprint": stages.fingerprint,
        "storage": config.storage.model_dump(),
    }


def _plain(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def replica_resources(compute: ComputeConfig) -> dict[str, Any]:
    """What a replica occupies: a GPU, or CPUs where there is none."""
    return (
        {"num_gpus": compute.gpus_per_replica} if compute.gpus_per_replica else {"num_cpus": compute.cpus_per_replica}
    )


def _one_unit_a_call() -> dict[str, Any]:
    return {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "max_restarts": MAX_RESTARTS,
        "max_task_retries": MAX_TASK_RETRIES,
    }
