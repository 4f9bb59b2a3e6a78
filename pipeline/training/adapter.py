"""The whole of `jobs.train`: check, decode the audio, train, write the best adapter as a model."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.config import ConfigError
from pipeline.model.files import layout
from pipeline.training import adapter_model, resume
from pipeline.training.adapter_config import AdapterConfig, AdapterSteps
from pipeline.training.adapter_worker import examples, work
from pipeline.training.distributed import launch
from pipeline.training.examples import Examples
from pipeline.training.parallel import Group
from pipeline.training.report import card, shown

log = logging.getLogger(__name__)


def train_adapter(config: AdapterConfig, command: str) -> dict[str, Any]:
    """Train, and write the best model to output.uri. After a kill the same call goes on from the last checkpoint.

    Args:
        config: of the training.
        command: how the job was called, for the model card.

    Returns:
        {"before", "best", "last"}: the log's lines of these three evaluations.

    Raises:
        ConfigError: one line about what the user must change.
    """
    check(config)
    folder = Path(config.folder)
    if not resume.has_settings(folder):  # a run that was killed before them may have left a start of other settings
        shutil.rmtree(folder / "start", ignore_errors=True)
    start = adapter_model.prepare_start(config)
    if strange := adapter_model.strange_files(Path(config.output.uri), start):
        raise ConfigError(
            f"output.uri: {config.output.uri}: {strange[0]} is of another model, and would be one of this; use another "
            "folder"
        )
    weights = {"model.weights": layout.describe(str(start)).weights_hash}
    defaults = {f"train.{key}": value for key, value in AdapterSteps().model_dump(mode="json").items()}
    resume.agree(folder, weights | config.deciding(), steps="train.steps", defaults=defaults)
    data, sets = examples(config)
    evaluated = sum(len(one) for one in sets.values())
    log.info("training on %d recordings%s, evaluating on %d", len(data), _left_out(data), evaluated)
    with shown(folder / resume.LOG):
        if config.compute.workers:
            launch(config)
        else:
            work(config, Group(torch.device("cpu")))
    lines = [json.loads(line) for line in (folder / resume.LOG).read_text().splitlines()]
    evaluations = [line for line in lines if line.get("evaluation")]
    if not evaluations or evaluations[0]["step"]:
        raise ConfigError("folder: its log.jsonl has no evaluation of step 0; use a new folder")
    state = resume.load(folder, torch.device("cpu"))
    assert state is not None  # every training ends with a checkpoint
    result = {"before": evaluations[0], "best": state["best"], "last": evaluations[-1]}
    adapter_model.export(config, state["best_weights"], card(config, result, data, resume.changes(folder), command))
    return result


def check(config: AdapterConfig) -> None:
    """Find impossible settings before hours of work. Raises ConfigError that names the key."""
    for key, uri in (("output.uri", config.output.uri), ("folder", config.folder)):
        if "://" in uri:
            raise ConfigError(f"{key}: {uri}: must be a local folder, or one that all machines of a cluster share")
        try:
            Path(uri).mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ConfigError(f"{key}: {uri}: {err.strerror}") from None
    folder = Path(config.folder)
    taken = (layout.directory(config.model.name, config.model.revision), folder, folder / "start")
    if Path(config.output.uri).resolve() in (path.resolve() for path in taken):
        raise ConfigError(
            f"output.uri: {config.output.uri}: must differ from model.name and folder, whose files it would overwrite"
        )
    if not resume.has_settings(folder) and adapter_model.is_foreign(folder / "start"):
        raise ConfigError(f"folder: {config.folder}: its `start` was not made by a training; use another folder")
    for name, source in config.evaluation.items():
        if source == config.source:
            raise ConfigError(f"evaluation.{name}.uri: {source.uri}: the same recordings are trained on; use others")
    if config.compute.gpus_per_worker and not config.compute.workers:
        raise ConfigError("compute.workers: 0 trains in this process on the CPU; training on GPUs needs at least 1")


def _left_out(data: Examples) -> str:
    if not data.left_out:
        return ""
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(data.left_out.items()))
    return f" ({sum(data.left_out.values())} left out: {reasons})"
