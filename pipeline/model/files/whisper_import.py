"""Whisper encoders of other programs as encoder.safetensors holds them: OpenAI's files, CTranslate2's model.bin."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.files import importer
from pipeline.model.files.layout import EncoderSpec
from pipeline.model.files.weights import whisper_name

OPENAI = (  # (pattern in openai/whisper's model_state_dict, without `encoder.`, ours)
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
CTRANSLATE2 = (  # the same for CTranslate2, `gamma` and `beta` already called weight and bias, without `encoder/`
    (r"position_encodings/encodings", "embed_positions.weight"),
    (r"(conv[12])/(weight|bias)", r"\1.\2"),
    (r"layer_norm/(weight|bias)", r"layer_norm.\1"),
    (r"layer_(\d+)/self_attention/layer_norm/(weight|bias)", r"layers.\1.self_attn_layer_norm.\2"),
    (r"layer_(\d+)/self_attention/linear_0/(weight|bias)", r"layers.\1.self_attn.qkv.\2"),
    (r"layer_(\d+)/self_attention/linear_1/(weight|bias)", r"layers.\1.self_attn.out_proj.\2"),
    (r"layer_(\d+)/ffn/layer_norm/(weight|bias)", r"layers.\1.final_layer_norm.\2"),
    (r"layer_(\d+)/ffn/linear_0/(weight|bias)", r"layers.\1.fc1.\2"),
    (r"layer_(\d+)/ffn/linear_1/(weight|bias)", r"layers.\1.fc2.\2"),
)
TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, np.uint16)  # by CTranslate2's ids; the last is bfloat16
BFLOAT16 = 5
VERSIONS = (4, 5, 6)  # of CTranslate2's binary format: each variable with its type and its size in bytes
MOST_BYTES = 2**16  # of one name


def read_encoder(path: Path, heads: int | None = None) -> tuple[dict[str, Tensor], EncoderSpec]:
    """Weights under transformers' names, float32, and the dimensions that follow from their shapes.

    path: a CTranslate2 folder or its model.bin, OpenAI's .pt, or a safetensors file of transformers. heads: of the
    attention, by default as wide as all of Whisper's, 64. Raises ConfigError, one line that names the file.
    """
    file = path / "model.bin" if (path / "model.bin").is_file() else path
    file = path / "model.safetensors" if (path / "model.safetensors").is_file() else file
    if file.suffix == ".bin" and file.is_file() and _is_ctranslate2(file):
        state = _parts_of_qkv(_renamed(_floats(_ctranslate2(file)), CTRANSLATE2, file))
    else:
        stored = importer.read_state(file)
        inner = {name.removeprefix("model_state_dict."): weight for name, weight in stored.items()}
        if "encoder.positional_embedding" in inner:
            own = {n.removeprefix("encoder."): w for n, w in inner.items() if n.startswith("encoder.")}
            state = _renamed(own, OPENAI, file)
        else:
            state = {name: weight for key, weight in stored.items() if (name := whisper_name(key)) is not None}
    state = {name: weight.float().contiguous() for name, weight in state.items()}
    return state, _spec(state, file, heads)


def _spec(state: Mapping[str, Tensor], path: Path, heads: int | None) -> EncoderSpec:
    """Raises ConfigError where a weight of a whole encoder is missing."""
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
    width, mels = state["conv1.weight"].shape[:2]
    ffn = state["layers.0.fc1.weight"].shape[0]
    return EncoderSpec(d_model=width, layers=layers, heads=heads or max(1, width // 64), ffn=ffn, mels=mels)


def _renamed(stored: Mapping[str, Tensor], table: tuple[tuple[str, str], ...], path: Path) -> dict[str, Tensor]:
    renamed = {}
    for name, weight in stored.items():
        ours = [re.sub(pattern, own, name) for pattern, own in table if re.fullmatch(pattern, name)]
        if not ours:
            raise ConfigError(f"{path}: no Whisper encoder: {name} is unknown")
        renamed[ours[0]] = weight
    return renamed


def _floats(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's variables without constants, quantised ones as floats: w = q / scale."""
    encoder = {name.removeprefix("encoder/"): value for name, value in stored.items() if name.startswith("encoder/")}
    state = {}
    for name, value in encoder.items():
        if value.ndim == 0 or name.endswith("_scale"):
            continue
        if f"{name}_scale" in encoder:
            scale = encoder[f"{name}_scale"].float()
            value = value.float() / (scale.view(-1, *[1] * (value.ndim - 1)) if scale.ndim else scale)
        state[name.replace("/gamma", "/weight").replace("/beta", "/bias")] = value
    return state


def _parts_of_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CTranslate2 keeps query, key and value in one matrix; Whisper's key has no bias."""
    parts = {}
    for name, value in state.items():
        if ".qkv." not in name:
            parts[name] = value
            continue
        for projection, piece in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True):
            if not (projection == "k_proj" and name.endswith(".bias")):
                parts[name.replace("qkv", projection)] = piece
    return parts


def _is_ctranslate2(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(6)
    return len(head) == 6 and struct.unpack("<I", head[:4])[0] in range(1, 64) and head[4:6] != b"\x00\x00"


def _ctranslate2(path: Path) -> dict[str, Tensor]:
    """All variables of a model.bin. Layout: version, name, revision, count, then per variable its name, rank, sizes,
    type, bytes and data; then aliases. Little-endian; text with its length in 16 bits and a zero behind it."""
    variables: dict[str, Tensor] = {}
    try:
        with path.open("rb") as file:
            version = _number(file, "<I")
            if version not in VERSIONS:
                raise ConfigError(f"{path}: CTranslate2 format {version}, this version reads {VERSIONS[0]} to 6")
            name = _text(file)
            if name != "WhisperSpec":
                raise ConfigError(f"{path}: a CTranslate2 model of kind {name}, not WhisperSpec")
            _number(file, "<I")  # revision of the specification
            for _ in range(_number(file, "<I")):
                variable = _text(file)
                shape = [_number(file, "<I") for _ in range(_number(file, "<B"))]
                kind, size = _number(file, "<B"), _number(file, "<I")
                dtype = np.dtype(TYPES[kind])
                if size != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
                    raise ValueError(f"{variable} has {size} bytes for {shape}")
                data = _bytes(file, size)
                tensor = torch.from_numpy(np.frombuffer(bytearray(data), dtype).reshape(shape)) if size else None
                if tensor is not None:
                    variables[variable] = tensor.view(torch.bfloat16) if kind == BFLOAT16 else tensor
            for _ in range(_number(file, "<I")):
                alias, variable = _text(file), _text(file)
                variables[alias] = variables[variable]
    except (struct.error, ValueError, IndexError, KeyError, UnicodeDecodeError, EOFError, OSError) as err:
        raise ConfigError(f"{path}: no CTranslate2 model: {err}") from None
    return variables


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, _bytes(file, struct.calcsize(form)))[0])


def _text(file: BinaryIO) -> str:
    return _bytes(file, min(_number(file, "<H"), MOST_BYTES)).rstrip(b"\0").decode()


def _bytes(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"{len(data)} bytes where {size} are announced")
    return data
