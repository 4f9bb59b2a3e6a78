"""The workers of a training on Ray Train, which starts them again where one dies.

Ray reads its environment when it is imported, and `ray_cluster` sets that environment: so the functions import Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.config import ComputeConfig, ConfigError
from pipeline.flow.cluster import ray_cluster
from pipeline.storage.base import OutputError
from pipeline.storage.errors import storage_error
from pipeline.training.adapter_config import AdapterConfig, WorkerConfig
from pipeline.training.adapter_worker import work
from pipeline.training.parallel import Group

TIMEOUT_SECONDS = 7200  # a worker waits so long for the others: one may load 51 GB, or transcribe longer


def launch(config: AdapterConfig) -> None:
    """Train on Ray Train until all steps are done, on the cluster that `ray_cluster` finds or starts.

    Raises ConfigError for what a user can mend, else Ray's error.
    """
    c = config.compute
    with ray_cluster(ComputeConfig(replicas_max=c.workers, cpus_per_replica=c.cpus_per_worker)):
        _fit(config)


def _fit(config: AdapterConfig) -> None:
    import ray.train
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    c = config.compute
    gpus = {"GPU": c.gpus_per_worker} if c.gpus_per_worker else {}
    _require_gpus(c, ray.cluster_resources().get("GPU", 0.0))
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config.model_dump(mode="json"), "folder": str(Path.cwd())},
        torch_config=TorchConfig(timeout_s=TIMEOUT_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=c.workers, use_gpu=bool(gpus), resources_per_worker={"CPU": c.cpus_per_worker} | gpus
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(Path(config.folder).resolve()),
            failure_config=FailureConfig(max_failures=c.max_failures),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as err:
        raise _users_error(getattr(err, "worker_failures", {}).values()) or err from None


def _worker(settings: dict[str, Any]) -> None:
    """One worker in a process of Ray. It goes back to the job's folder: Ray Train starts it in a folder of its own."""
    import ray.train
    from ray.train.torch import get_device

    if Path(settings["folder"]).is_dir():  # another machine may lack it; then only absolute paths work
        os.chdir(settings["folder"])
    config = AdapterConfig.model_validate(settings["config"])
    context = ray.train.get_context()
    group = Group(get_device(), context.get_world_rank(), context.get_world_size())
    work(config, group, ray.train.report)


def _require_gpus(c: WorkerConfig, there: float) -> None:
    """Raises ConfigError where the cluster has too few GPUs: Ray Train would wait for ever."""
    if (wanted := c.workers * c.gpus_per_worker) > there:
        raise ConfigError(f"compute.gpus_per_worker: {wanted:g} GPUs are wanted, the cluster has {there:g}")


def _users_error(failures: Iterable[Exception]) -> Exception | None:
    """Of what the workers raised, the first that a user can mend: a wrong setting or a full disk."""
    for failure in failures:
        if isinstance(failure, ConfigError | OutputError):
            return failure
        if broken := storage_error(failure):
            return broken
    return None
