"""transformers' `generate`, unchanged or with the engine's random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor
from transformers.models.diffusion_gemma import generation_diffusion_gemma as stock

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.recogniser import AsrModel


def generate(model: AsrModel, prompts_BP: Tensor, denoise: DenoiseConfig) -> Tensor:
    """Run `generate` on text prompts, with torch's own random numbers. Returns canvases, int64 [batch, canvas]."""
    with _prepared(model, denoise) as config:
        out: Any = model.backbone.generate(cast(Any, prompts_BP), generation_config=config)
    return cast(Tensor, out.sequences[:, prompts_BP.shape[1] :])


def generate_on_same_noise(model: AsrModel, prompts_BP: Tensor, denoise: DenoiseConfig, keys_B2: Tensor) -> Tensor:
    """Run `generate` with the engine's counter-based noise for the first canvas, the samples and the renoising.

    keys_B2: int32, `noise.row_keys` of each row. For checks of equality: this noise costs more than torch's.
    """
    batch, length, vocab = len(prompts_BP), model.config.canvas_length, model.config.vocab_size
    step = torch.zeros(batch, dtype=torch.int32, device=prompts_BP.device)

    def multinomial(probs: Tensor, num_samples: int) -> Tensor:
        assert num_samples == 1
        position_keys = noise.position_keys(keys_B2, step, noise.SAMPLE, length).view(-1, 2)
        return noise.sample(probs.log(), position_keys)[:, None]

    def canvas(*_: object, **__: object) -> Tensor:
        drawn = noise.random_tokens(keys_B2, step, noise.RENOISE, length, vocab)
        step.add_(1)
        return drawn

    first = noise.random_tokens(keys_B2, step, noise.CANVAS, length, vocab)
    with (
        _prepared(model, denoise) as config,
        mock.patch.object(torch, "multinomial", multinomial),
        mock.patch.object(stock.EntropyBoundSampler, "initialize_canvas", canvas),
    ):
        step.sub_(1)  # generate draws a canvas before it reads decoder_input_ids
        out: Any = model.backbone.generate(cast(Any, prompts_BP), generation_config=config, decoder_input_ids=first)
    return cast(Tensor, out.sequences[:, prompts_BP.shape[1] :])


@contextlib.contextmanager
def _prepared(model: AsrModel, denoise: DenoiseConfig) -> Iterator[stock.DiffusionGemmaGenerationConfig]:
    """The generation config of one canvas. With early_stop False nothing ends a canvas before its last step."""
    backbone = model.backbone
    length = denoise.canvas_length if isinstance(denoise.canvas_length, int) else model.config.canvas_length
    config = stock.DiffusionGemmaGenerationConfig(
        max_new_tokens=length,
        max_denoising_steps=denoise.max_steps,
        sampler_config=stock.EntropyBoundSamplerConfig(entropy_bound=denoise.entropy_bound),
        t_min=denoise.temperature_min,
        t_max=denoise.temperature_max,
        stability_threshold=denoise.stability,
        confidence_threshold=denoise.confidence_threshold,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            mock.patch.object(backbone, "generation_config", stock.DiffusionGemmaGenerationConfig(), create=True)
        )
        stack.enter_context(mock.patch.object(backbone.config, "canvas_length", length))
        if not denoise.early_stop:
            stack.enter_context(mock.patch.object(backbone, "_prepare_diffusion_stopping_criteria", return_value=None))
        yield config
