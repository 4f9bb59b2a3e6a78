"""The models of the benchmark: the embedded one, one of 307 M parameters for a CPU, and the released one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import nn

from pipeline.config import DenoiseConfig, SegmentConfig
from pipeline.model.files import checkpoint, layout
from pipeline.model.files.allocation import allocate
from pipeline.model.files.facts import Defaults
from pipeline.model.files.layout import AsrConfig
from pipeline.model.network import float8, lora
from pipeline.model.new_model import SizeSection, asr_config, train_tokenizer
from pipeline.model.recogniser import AsrModel

PERIOD = 1_000_003  # so many random numbers are drawn, and repeated; a prime, so that no two rows of a weight are equal
END_SHARE = 4  # in random models one token in four ends a text: else every canvas would overflow
PEAK = 20.0  # factor of the last norm in random models: logits spread like a trained model's, so that rows stop early


@dataclass(frozen=True)
class Size:
    """A model, and how it is run."""

    name: str
    config: AsrConfig
    steps: int  # of denoising, at most
    windows: int
    stock_batches: tuple[int, ...]  # of transformers' `generate`
    slots: int  # of the engine
    seconds: tuple[float, float]  # of audio in the shortest and in the longest segment


def size_named(name: str) -> Size:
    """The size of that name: `tiny`, `cpu300m` or `full`. Raises KeyError for another name."""
    return {"tiny": _tiny, "cpu300m": _cpu300m, "full": _full}[name]()


def build(size: Size, *, device: str, dtype: torch.dtype, fp8: bool = False) -> AsrModel:
    """Load the trained weights where the repository has them (tiny), else draw random ones.

    Random: built on the meta device, each weight allocated once on `device` in `dtype` and filled there. fp8: as with
    `model.weights=fp8`; in random models q, k, v and o stay in `dtype`, as in the released one, where they carry LoRA.
    LoRA is merged, as for inference.
    """
    if trained(size.name):
        return checkpoint.load(size.name, device=device, dtype=dtype, fp8=fp8, merge=True)
    with torch.device("meta"):
        model = AsrModel(size.config, tokenizer_for(size.config))
        if fp8:
            layers, paths = (
                range(len(model.backbone.model.decoder.layers)),
                [p for p in float8.PATHS if "attn" not in p],
            )
            names = {f"{float8.DECODER}{layer}.{path}" for layer in layers for path in paths}
            float8.convert(model.backbone, float8.Kernels.of(device, dtype), names)
    allocate(model, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(0)
    normal = torch.randn(PERIOD, generator=generator, device=device, dtype=torch.float32).to(dtype)
    for name, weight in model.named_parameters():  # tied ones come once
        _fill(name, weight, normal)
    _fill_scales(model)
    model.backbone.model.decoder.norm.weight.mul_(PEAK)
    lora.merge(model.backbone)
    return model


def tokenizer_for(config: AsrConfig) -> Tokenizer:
    """A tokenizer for a model with random weights. It makes a prompt of the right form, and no texts.

    The released model's own tokenizer is on the hub. In its place stands one with the same special tokens, for which
    each word of the instruction is one token.
    """
    tokens = config.tokens
    if tokens.bos is None or tokens.begin_audio is None or tokens.end_audio is None:
        return train_tokenizer(["la le li lo lu"], 300)
    marks = {"<bos>": tokens.bos, "<|audio>": tokens.begin_audio, "<|audio|>": tokens.audio}
    marks |= {"<audio|>": tokens.end_audio}
    made = Tokenizer(models.WordLevel({"<unk>": 3, **marks}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    return made


def _fill(name: str, weight: nn.Parameter, normal: torch.Tensor) -> None:
    """Fill one weight: norms and scales with 1, biases with 0, the rest so that activations keep their size."""
    if weight.ndim < 2:
        weight.data.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    deviation = 0.02 if "embed" in name else weight.shape[-1] ** -0.5
    flat = weight.data.view(-1)
    for start in range(0, flat.numel(), PERIOD):
        part = flat[start : start + PERIOD]
        part.copy_(normal[: part.numel()] * (1.0 if weight.dtype == float8.FP8 else deviation))


def _fill_scales(model: AsrModel) -> None:
    """Give random weights in FP8, which have a deviation of 1, that of other random weights."""
    for module in model.modules():
        if isinstance(module, float8.MODULES):
            for name, weight in module.named_parameters(recurse=False):
                if weight.dtype == float8.FP8:
                    getattr(module, f"{name}_scale").fill_(weight.shape[-1] ** -0.5)


def trained(name: str) -> bool:
    """Whether the repository has trained weights of this size."""
    folder = layout.ASSETS / name
    return (folder / "config.json").is_file() and (folder / "backbone" / "model.safetensors").is_file()


def _tiny() -> Size:
    if trained("tiny"):
        config = layout.read_config(layout.directory("tiny"))
    else:
        config = config_named("tiny", SizeSection(), vocab=2048)
    return Size("tiny", config, steps=16, windows=128, stock_batches=(1, 8, 32, 64), slots=32, seconds=spread(config))


def _cpu300m() -> Size:
    """307 M parameters in proportions of the full size: 12 layers of 16 experts, 2 chosen; every sixth is global."""
    section = SizeSection(
        window_seconds=12, canvas_length=64, hidden=768, layers=12, heads=8, kv_heads=4, mlp=2112,
        experts=16, experts_per_token=2, expert_mlp=384,
    )  # fmt: skip
    config = config_named("cpu300m", section, vocab=65536)
    text = config.backbone["text_config"]
    text |= {
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
        "global_head_dim": 192,
        "num_global_key_value_heads": 2,
    }
    return Size("cpu300m", config, steps=4, windows=8, stock_batches=(1, 4, 8), slots=4, seconds=spread(config))


def _full() -> Size:
    """The released model as its config says, at its published setting: its steps, its canvas, its segments.

    Only the end tokens differ, so that texts of random weights end.
    """
    config = layout.read_config(layout.ASSETS / layout.FULL_SIZE)
    defaults = config.defaults or Defaults()
    segment = SegmentConfig.model_validate(defaults.segment)
    half = segment.search_seconds / 2
    seconds = (segment.target_seconds - half, segment.target_seconds + half)
    steps = DenoiseConfig.model_validate(defaults.denoise).max_steps
    return Size(
        "full", often_ending(config), steps, windows=192, stock_batches=(1, 8, 16, 32), slots=64, seconds=seconds
    )


def config_named(name: str, section: SizeSection, vocab: int) -> AsrConfig:
    """The config of a model of that size whose texts end now and then, though its weights are random."""
    return often_ending(asr_config(section, vocab)).model_copy(update={"name": name})


def often_ending(config: AsrConfig) -> AsrConfig:
    """The config with as many end tokens as random weights need to end now and then."""
    tokens = config.tokens.model_copy(update={"eos": list(range(1, config.vocab_size, END_SHARE))})
    return config.model_copy(update={"tokens": tokens})


def spread(config: AsrConfig) -> tuple[float, float]:
    """15 to 100 % of the window: seconds of the shortest and of the longest segment."""
    return 0.15 * config.window_seconds, config.window_seconds
