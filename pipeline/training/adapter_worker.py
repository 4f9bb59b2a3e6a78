"""One worker of a training: its model, its batches, its steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.config import ConfigError, SourceConfig
from pipeline.model.files import layout
from pipeline.training import adapter_model
from pipeline.training.adapter_batches import AudioBatches
from pipeline.training.adapter_config import AdapterConfig
from pipeline.training.adapter_loop import AdapterTrainer
from pipeline.training.examples import Examples, prepare
from pipeline.training.parallel import Group

log = logging.getLogger(__name__)


def work(config: AdapterConfig, group: Group, report: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """One worker's part of the training, from the last checkpoint to the last step."""
    if group.device.type == "cpu":
        torch.set_num_threads(config.compute.threads_per_worker)
    data, sets = examples(config)
    trainer(config, group, data, sets).run(report)


def trainer(config: AdapterConfig, group: Group, data: Examples, sets: dict[str, Examples]) -> AdapterTrainer:
    """Model, batches and optimiser, before the first step or the checkpoint. Raises ConfigError."""
    model = adapter_model.build(Path(config.folder) / "start", config, group.device)
    batches = AudioBatches(
        data,
        model.tokenizer,
        canvas_length=model.config.canvas_length,
        window_samples=model.config.window_samples,
        batch=config.train.batch * group.world,
        seed=config.seed,
        eos=model.config.tokens.eos[0],
        canvas_step=config.train.canvas_step,
        full_canvas_share=config.train.full_canvas_share,
    )
    if not batches.rows:
        raise ConfigError(f"source.uri: {config.source.uri}: no text fits the canvas of {model.config.canvas_length}")
    if group.rank == 0 and batches.too_long:
        log.warning("%d texts do not fit the canvas and are not trained on (too_many_tokens)", batches.too_long)
    return AdapterTrainer(model, batches, sets, config, group)


def examples(config: AdapterConfig) -> tuple[Examples, dict[str, Examples]]:
    """Decoded audio of the source and of all evaluation sets: from `folder` where it is there already."""
    model = layout.read_config(Path(config.folder) / "start")

    def of(source: SourceConfig) -> Examples:
        folder = Path(config.folder) / "examples"
        return prepare(folder, source, model=model, segment=config.segment, storage=config.storage)

    return of(config.source), {name: of(source) for name, source in config.evaluation.items()}
