"""Whisper encoders of OpenAI and transformers become the same weights; an incomplete one is one line."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.config import ConfigError
from pipeline.model.files import whisper_import
from pipeline.model.files.layout import EncoderSpec

SPEC = EncoderSpec(d_model=16, layers=2, heads=2, ffn=24, mels=4)
OPENAI_NAMES = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj"))


@pytest.fixture(scope="module")
def encoder() -> dict[str, Tensor]:
    config = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24, num_mel_bins=4,
        max_source_positions=6,
    )  # fmt: skip
    return {name: weight(name, w.shape) for name, w in WhisperEncoder(config).state_dict().items()}


def weight(name: str, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def as_openai(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of openai/whisper, written down a second time here."""
    renamed = {}
    for name, value in encoder.items():
        new = name.replace("layers.", "blocks.").replace("embed_positions.weight", "positional_embedding")
        for theirs, ours in OPENAI_NAMES:
            new = new.replace(f"self_attn.{ours}", f"attn.{theirs}")
        new = new.replace("self_attn_layer_norm", "attn_ln").replace("final_layer_norm", "mlp_ln")
        new = new.replace("fc1", "mlp.0").replace("fc2", "mlp.2")
        new = new.replace("layer_norm", "ln_post") if new.startswith("layer_norm") else new
        renamed[f"encoder.{new}"] = value
    return renamed | {"decoder.token_embedding.weight": torch.ones(2, 2)}


def test_openais_file_holds_the_same_encoder(encoder: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "small.pt"
    torch.save({"dims": {"n_mels": 4}, "model_state_dict": as_openai(encoder)}, path)
    state, spec = whisper_import.read_encoder(path, heads=2)
    assert spec == SPEC
    assert state.keys() == encoder.keys()
    assert all(torch.equal(state[name], value) for name, value in encoder.items())


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder."])
def test_files_of_transformers_are_taken_as_they_are(encoder: dict[str, Tensor], tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"{prefix}{name}": value for name, value in encoder.items()}, path)
    state, spec = whisper_import.read_encoder(tmp_path, heads=2)
    assert spec == SPEC
    assert all(torch.equal(state[name], value) for name, value in encoder.items())


def test_heads_are_64_wide_unless_the_user_says_otherwise(encoder: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(encoder, path)
    assert whisper_import.read_encoder(path)[1].heads == 1  # 16 wide
    assert whisper_import.read_encoder(path, heads=4)[1].heads == 4


def test_heads_that_do_not_divide_the_width_are_refused_by_their_key(
    encoder: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(encoder, path)
    with pytest.raises(ConfigError, match=r"^encoder_heads: 3 does not divide 16, the width of .*model\.safetensors$"):
        whisper_import.read_encoder(path, heads=3)


@pytest.mark.parametrize("name", ["conv1.weight", "layers.0.fc1.weight"])
def test_weights_without_the_dimensions_of_an_encoder_are_one_line(
    encoder: dict[str, Tensor], tmp_path: Path, name: str
) -> None:
    save_file(encoder | {name: torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"no Whisper encoder: conv1 and fc1 have weights of shape \[.*\(3,\)"):
        whisper_import.read_encoder(tmp_path)


@pytest.mark.parametrize("lost", ["encoder.ln_post.weight", "encoder.blocks.1.attn.query.bias"])
def test_a_weight_that_is_missing_is_named(encoder: dict[str, Tensor], tmp_path: Path, lost: str) -> None:
    state = as_openai(encoder)
    del state[lost]
    torch.save({"model_state_dict": state}, tmp_path / "small.pt")
    with pytest.raises(ConfigError, match=r"small\.pt: no Whisper encoder: 1 weights are missing"):
        whisper_import.read_encoder(tmp_path / "small.pt")


def test_an_encoder_without_layers_is_none(encoder: dict[str, Tensor], tmp_path: Path) -> None:
    state = {name: weight for name, weight in as_openai(encoder).items() if ".blocks." not in name}
    torch.save({"model_state_dict": state}, tmp_path / "small.pt")
    with pytest.raises(ConfigError, match=r"small\.pt: no Whisper encoder: 15 weights are missing"):
        whisper_import.read_encoder(tmp_path / "small.pt")


def test_a_weight_that_is_unknown_is_named(encoder: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model_state_dict": as_openai(encoder) | {"encoder.gate": torch.ones(1)}}, tmp_path / "small.pt")
    with pytest.raises(ConfigError, match="gate is unknown"):
        whisper_import.read_encoder(tmp_path / "small.pt")


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x07" * 40])
@pytest.mark.parametrize("name", ["model.safetensors", "small.pt"])
def test_a_file_without_weights_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=name) as raised:
        whisper_import.read_encoder(path)
    assert "\n" not in str(raised.value)
