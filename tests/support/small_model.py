"""Small recognisers with random weights, for tests: built in a second, no files."""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer

from pipeline.config import LANGUAGES
from pipeline.model.files.layout import EncoderSpec, LoraSpec
from pipeline.model.network import lora as adapters
from pipeline.model.new_model import SizeSection, asr_config, train_tokenizer
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import SAMPLE_RATE, Segment

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("", "n", "s", "ra")]


def small_tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(WORDS[i : i + 4]) for i in range(len(WORDS))] * 3, 420)


def random_model(
    seed: int = 0,
    *,
    spread: float = 4.0,
    peaked: float = 1.0,
    canvas_length: int = 16,
    experts: int = 4,
    layers: int = 3,
    lora: LoraSpec | None = None,
) -> AsrModel:
    """`peaked` scales the last norm: logits spread further, entropies fall, rows stop early.

    lora: with adapters that do something, since new ones add nothing.
    """
    tokenizer = small_tokenizer()
    size = SizeSection(
        window_seconds=1.0,
        canvas_length=canvas_length,
        hidden=64,
        heads=4,
        layers=layers,
        mlp=96,
        experts=experts,
        experts_per_token=2,
        expert_mlp=48,
        projector_hidden=48,
        subsample=8,
    )
    torch.manual_seed(seed)
    config = asr_config(size, tokenizer.get_vocab_size())
    config = config.model_copy(update={"encoder": EncoderSpec(d_model=32, layers=1, heads=2, ffn=64), "lora": lora})
    model = AsrModel(config, tokenizer).eval().requires_grad_(False)
    for name, parameter in model.backbone.model.decoder.layers.named_parameters():
        if parameter.ndim >= 2 and not adapters.is_own(name):
            parameter.mul_(spread)
    model.backbone.model.decoder.norm.weight.mul_(peaked)
    for name, weight in adapters.state(model.backbone).items():
        if name.endswith(".up"):
            weight.normal_(std=0.3)
    return model


def hearing_model(seed: int = 0, *, lora: LoraSpec | None = None) -> AsrModel:
    """A random model with a canvas of 8 whose rows stop early and whose text depends on the audio it is given."""
    model = random_model(seed, spread=2.0, peaked=30.0, canvas_length=8, lora=lora)
    model.encoder.whisper.embed_positions.weight.zero_()  # random weights hear little but the positions
    for layer in (model.projector.input, *model.projector.convs):
        layer.weight.mul_(6.0)
    return model


def noise_segment(number: int, language: str | None = None, *, seconds: float = 0.8) -> Segment:
    """A segment of noise whose level changes; number gives both its key and its samples."""
    generator = np.random.default_rng(number)
    samples = generator.normal(size=round(seconds * SAMPLE_RATE)) * generator.uniform(500, 5000)
    return Segment(f"recording {number}#0#0", language, samples.clip(-32768, 32767).astype("<i2").tobytes())


__all__ = ["LANGUAGES", "hearing_model", "noise_segment", "random_model", "small_tokenizer"]
