"""One worker of a training: its model, its batches, its steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import ConfigError, SourceConfig
from pipeline.model.files import layout
from pipeline.model.network import backbone, lora
from pipeline.model.recogniser import AsrModel
from pipeline.training import adapter_model, checkpointing
from pipeline.training.adapter_config import AdapterConfig
from pipeline.training.augment import mask_mel, mask_sizes
from pipeline.training.batches import Batches, audio_windows
from pipeline.training.evaluation import evaluate
from pipeline.training.examples import Examples, prepare
from pipeline.training.loop import Trainer
from pipeline.training.parallel import Group

log = logging.getLogger(__name__)


def work(config: AdapterConfig, group: Group, report: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Do one worker's part of the training, from the last checkpoint to the last step."""
    if group.device.type == "cpu":
        torch.set_num_threads(config.compute.threads_per_worker)
    data, sets = examples(config)
    trainer(config, group, data, sets).run(report)


def trainer(config: AdapterConfig, group: Group, data: Examples, sets: dict[str, Examples]) -> Trainer:
    """Make model, batches and optimiser, as they are before the first step. Raises ConfigError."""
    t = config.train
    model = adapter_model.build(Path(config.folder) / "start", config, group.device)
    if t.gradient_checkpointing:
        checkpointing.enable(model.backbone)
    for _, module in lora.adapters(model.backbone):
        module.dropout = t.lora_dropout
    batches = _batches(config, group, data, model)

    @torch.no_grad()
    def features(samples_BT: Tensor, generator: torch.Generator) -> Tensor:
        mel = model.encoder.log_mel(samples_BT)
        return model.encoder.encode(mask_mel(mel, generator, **mask_sizes(config.augment)))

    def rates() -> dict[str, Any]:
        with adapter_model.for_inference(model):
            found = evaluate(model, sets, config.denoise, slots=config.compute.canvases, group=group)
        return found.line(config.grounding_margin)

    return Trainer(
        model,
        batches,
        t,
        phases={"diffusion": t.steps},
        parameters=adapter_model.trainable(model),
        features=features,
        folder=Path(config.folder),
        seed=config.seed,
        group=group,
        prefill=checkpointing.prefill if t.gradient_checkpointing else backbone.prefill,
        evaluate=rates,
        evaluate_steps=t.evaluate_steps or max(1, round(batches.per_epoch / (2 * t.accumulate))),
    )


def _batches(config: AdapterConfig, group: Group, data: Examples, model: AsrModel) -> Batches:
    window, tokens = model.config.window_samples, model.config.tokens
    canvas = config.train.canvas_length or model.config.canvas_length
    batches = Batches(
        data.texts,
        data.languages,
        audio_windows(data, window_samples=window, augment=config.augment, seed=config.seed),
        [model.config.real_slots(samples) for samples in data.samples],
        model.tokenizer,
        canvas_length=canvas,
        batch=config.train.batch * group.world,
        seed=config.seed,
        eos=tokens.eos[0],
        fill=tokens.pad if config.train.fill == "pad" else None,
        canvas_step=config.train.canvas_step,
        full_canvas_share=config.train.full_canvas_share,
    )
    if not batches.rows:
        raise ConfigError(f"source.uri: {config.source.uri}: no text fits the canvas of {canvas}")
    if group.rank == 0 and batches.too_long:
        log.warning("%d texts do not fit the canvas and are not trained on (too_many_tokens)", batches.too_long)
    return batches


def examples(config: AdapterConfig) -> tuple[Examples, dict[str, Examples]]:
    """The decoded audio of the source and of every evaluation set; what is in `folder` is not decoded again."""
    model = layout.read_config(Path(config.folder) / "start")

    def of(source: SourceConfig) -> Examples:
        folder = Path(config.folder) / "examples"
        return prepare(folder, source, model=model, segment=config.segment, storage=config.storage)

    return of(config.source), {name: of(source) for name, source in config.evaluation.items()}
