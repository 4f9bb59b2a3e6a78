"""The adapter's workers on Ray Train: as many processes as the config says, started again where one dies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from pipeline.config import ConfigError
from pipeline.flow.suspects import users_error
from pipeline.training.adapter_config import AdapterConfig, WorkerConfig
from pipeline.training.parallel import Group

TIMEOUT_SECONDS = 7200  # for a message between workers: one may load 51 GB, or transcribe longer than the others


def launch(config: AdapterConfig) -> None:
    """Train on Ray Train until all steps are done; Ray must be running.

    Raises ConfigError for what a user can mend, else Ray's error.
    """
    c = config.compute
    _fits(c)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config.model_dump(mode="json"), "folder": str(Path.cwd())},
        torch_config=TorchConfig(timeout_s=TIMEOUT_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=c.workers, use_gpu=c.gpus_per_worker > 0, resources_per_worker=_resources(c)
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
        raise users_error(str(err)) or err from None


def _worker(settings: dict[str, Any]) -> None:
    """In a process of Ray: one worker from beginning to end, in the job's folder (Ray Train goes to one of its own)."""
    from pipeline.training.adapter import work

    if Path(settings["folder"]).is_dir():  # another machine may not have it; then only absolute paths hold there
        os.chdir(settings["folder"])
    config = AdapterConfig.model_validate(settings["config"])
    context = ray.train.get_context()
    group = Group(get_device(), context.get_world_rank(), context.get_world_size())
    work(config, group, ray.train.report)


def _resources(c: WorkerConfig) -> dict[str, float]:
    gpus = {"GPU": c.gpus_per_worker} if c.gpus_per_worker else {}
    return {"CPU": c.cpus_per_worker} | gpus


def _fits(c: WorkerConfig) -> None:
    """Ray Train would wait for ever. Raises ConfigError."""
    there = ray.cluster_resources().get("GPU", 0.0)
    if (wanted := c.workers * c.gpus_per_worker) > there:
        raise ConfigError(f"compute.gpus_per_worker: {wanted:g} GPUs are wanted, the cluster has {there:g}")
