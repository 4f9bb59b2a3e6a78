"""Whisper encoders of other programs under the names that encoder.safetensors has: transformers' and OpenAI's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.files.layout import EncoderSpec
from pipeline.model.files.weights import read_state, whisper_name

OPENAI = (  # (pattern in openai/whisper's model_state_dict without `encoder.`, our name)
    (r"positional_embedding", "embed_positions.weight"),
    (r"(conv[12])\.(weight|bias)", r"\1.\2"),
    (r"ln_post\.(weight|bias)", r"layer_norm.\1"),
    (r"blocks\.(\d+)\.attn\.query\.(weight|bias)", r"layers.\1.self_attn.q_proj.\2"),
    (r"blocks\.(\d+)\.attn\.key\.weight", r"layers.\1.self_attn.k_proj.weight"),
    (r"blocks\.(\d+)\.attn\.value\.(weight|bias)", r"layers.\1.self_attn.v_proj.\2"),
    (r"blocks\.(\d+)\.attn\.out\.(weight|bias)", r"layers.\1.self_attn.out_proj.\2"),
    (r"blocks\.(\d+)\.attn_ln\.(weight|bias)", r"layers.\1.self_attn_layer_norm.\2"),
    (r"blocks\.(\d+)\.mlp\.0\.(weight|bias)", r"layers.\1.fc1.\2"),
    (r"blocks\.(\d+)\.mlp\.2\.(weight|bias)", r"layers.\1.fc2.\2"),
    (r"blocks\.(\d+)\.mlp_ln\.(weight|bias)", r"layers.\1.final_layer_norm.\2"),
)


def read_encoder(path: Path, heads: int | None = None) -> tuple[dict[str, Tensor], EncoderSpec]:
    """Weights under transformers' names, float32, and the dimensions that follow from their shapes.

    path: OpenAI's .pt, a safetensors file of transformers, or a folder with model.safetensors. heads: of the attention;
    by default each is 64 wide, as in all of Whisper's sizes. Raises ConfigError, one line that names the file.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    stored = read_state(file)
    inner = {name.removeprefix("model_state_dict."): weight for name, weight in stored.items()}
    if "encoder.positional_embedding" in inner:
        own = {name.removeprefix("encoder."): w for name, w in inner.items() if name.startswith("encoder.")}
        state = _renamed(own, file)
    else:
        state = {name: weight for key, weight in stored.items() if (name := whisper_name(key)) is not None}
    state = {name: weight.float().contiguous() for name, weight in state.items()}
    return state, _spec(state, file, heads)


def _spec(state: Mapping[str, Tensor], path: Path, heads: int | None) -> EncoderSpec:
    """The dimensions of an encoder. Raises ConfigError where a weight is missing or is none of an encoder."""
    layers = len({name.split(".")[1] for name in state if name.startswith("layers.")})
    parts = [f"{norm}.{kind}" for norm in ("self_attn_layer_norm", "final_layer_norm", "fc1", "fc2") for kind in
             ("weight", "bias")]  # fmt: skip
    parts += [f"self_attn.{p}_proj.{kind}" for p in ("q", "v", "out") for kind in ("weight", "bias")]
    parts.append("self_attn.k_proj.weight")
    expected = {f"layers.{n}.{part}" for n in range(max(1, layers)) for part in parts} | {"embed_positions.weight"}
    expected |= {f"{name}.{kind}" for name in ("conv1", "conv2", "layer_norm") for kind in ("weight", "bias")}
    if lost := sorted(expected - state.keys()):
        raise ConfigError(f"{path}: no Whisper encoder: {len(lost)} weights are missing ({lost[0]})")
    if foreign := sorted(state.keys() - expected):
        raise ConfigError(f"{path}: no Whisper encoder: {len(foreign)} weights are unknown ({foreign[0]})")
    shapes = [tuple(state[name].shape) for name in ("conv1.weight", "layers.0.fc1.weight")]
    if list(map(len, shapes)) != [3, 2]:
        raise ConfigError(f"{path}: no Whisper encoder: conv1 and fc1 have weights of shape {shapes}")
    (width, mels, _), (ffn, _) = shapes
    heads = heads or max(1, width // 64)
    if width % heads:
        raise ConfigError(f"encoder_heads: {heads} does not divide {width}, the width of {path}")
    return EncoderSpec(d_model=width, layers=layers, heads=heads, ffn=ffn, mels=mels)


def _renamed(stored: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """OpenAI's names as transformers'. Raises ConfigError for a name that is not in the table."""
    renamed = {}
    for name, weight in stored.items():
        ours = [re.sub(pattern, own, name) for pattern, own in OPENAI if re.fullmatch(pattern, name)]
        if not ours:
            raise ConfigError(f"{path}: no Whisper encoder: {name} is unknown")
        renamed[ours[0]] = weight
    return renamed
