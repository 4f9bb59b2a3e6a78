"""Checkpoint format `fullcanvas/1` (layout.py): build, load and save a recogniser of any size."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import DiffusionGemmaForBlockDiffusion

from pipeline.config import ConfigError
from pipeline.model import backbone
from pipeline.model.encoder import AudioEncoder
from pipeline.model.layout import (
    ASSETS,
    WEIGHTS,
    AsrConfig,
    EncoderSpec,
    ModelInfo,
    ProjectorSpec,
    PromptSpec,
    TokensSpec,
    describe,
    directory,
    read_config,
)
from pipeline.model.materialise import materialise
from pipeline.model.projector import Projector

__all__ = [
    "ASSETS",
    "AsrConfig",
    "AsrModel",
    "EncoderSpec",
    "ModelInfo",
    "ProjectorSpec",
    "PromptSpec",
    "TokensSpec",
    "describe",
    "directory",
    "load",
    "read_config",
    "save",
]


class AsrModel(nn.Module):
    """Encoder, projector and backbone with their tokenizer: everything between samples and the vocabulary head."""

    def __init__(self, config: AsrConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        e = config.encoder
        self.encoder = AudioEncoder(
            d_model=e.d_model,
            layers=e.layers,
            heads=e.heads,
            ffn=e.ffn,
            mels=e.mels,
            window_seconds=config.window_seconds,
        )
        self.projector = Projector(input_dim=e.d_model, output_dim=config.hidden_size, **config.projector.model_dump())
        self.backbone: DiffusionGemmaForBlockDiffusion = backbone.build(config.backbone)
        self.prompts = _prompts(config, tokenizer)

    @property
    def prompt_length(self) -> int:
        return len(self.prompts[""]) + self.config.audio_slots - 1

    def prompt_embeds(self, audio_BSH: Tensor, languages: list[str | None]) -> Tensor:
        """Text embeddings with the audio vectors in the audio slot: [batch, prompt_length, hidden]. Raises KeyError."""
        tokens = torch.tensor([self.prompts[language or ""] for language in languages], device=audio_BSH.device)
        text = backbone.embed(self.backbone, tokens)
        at = self.prompts[""].index(self.config.tokens.audio)
        return torch.cat([text[:, :at], audio_BSH.to(text.dtype), text[:, at + 1 :]], dim=1)


def _prompts(config: AsrConfig, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Prompt token ids per language, with ONE audio token standing for all slots, at one place. All of one length."""
    audio = tokenizer.id_to_token(config.tokens.audio)
    if audio is None:
        raise ValueError(f"tokens.audio: the tokenizer has no token {config.tokens.audio}")
    prompts = {}
    for language in ["", *config.languages]:
        if language not in config.prompt.languages:
            raise ValueError(f"prompt.languages: no text for {language!r}")
        words = config.prompt.languages[language]
        before, after = (part.replace("{language}", words) for part in (config.prompt.before, config.prompt.after))
        prompts[language] = list(tokenizer.encode(before + audio + after, add_special_tokens=False).ids)
        if prompts[language].count(config.tokens.audio) != 1:
            raise ValueError(f"prompt for {language!r} must hold the audio token once: {prompts[language]}")
    if len({(len(ids), ids.index(config.tokens.audio)) for ids in prompts.values()}) != 1:
        raise ValueError(
            "prompts of all languages must have one length and one audio position: there is no padding mask"
        )
    return prompts


def load(name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> AsrModel:
    """A recogniser ready for inference. Raises ConfigError where a file is missing or does not fit.

    Weights exist once, on `device` in `dtype`: files are mapped into memory and copied from there. Buffers that are
    computed, not loaded (mel filters, rotary frequencies), are float32 whatever the dtype.
    """
    folder = directory(name)
    config = read_config(folder)
    tokenizer_path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_path))
    except Exception as err:  # noqa: BLE001 - tokenizers raises bare Exception
        raise _unusable(tokenizer_path, err) from None
    try:
        with torch.device("meta"):
            model = AsrModel(config, tokenizer)
    except Exception as err:  # noqa: BLE001 - whatever torch and transformers raise on numbers that do not fit together
        raise _unusable(folder / "config.json", err) from None
    materialise(model, device=device, dtype=dtype)
    encoder, adapter, weights = (folder / name for name in WEIGHTS)
    for path, apply in (
        (encoder, model.encoder.load_whisper),
        (adapter, model.projector.load_state_dict),
        (weights, lambda state: _load_backbone(model.backbone, state)),
    ):
        try:
            apply(load_file(path))
        except (OSError, SafetensorError, RuntimeError, KeyError) as err:
            raise _unusable(path, err) from None
    return model


def _unusable(path: Path, err: Exception) -> ConfigError:
    return ConfigError(f"model.name: {path}: {' '.join(str(err).split()) or type(err).__name__}")


def _load_backbone(model: DiffusionGemmaForBlockDiffusion, state: dict[str, Tensor]) -> None:
    """Tied weights are stored once, under the decoder's name; nothing else may be missing."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = set(_tied(model))
    if lost := [key for key in missing if key not in tied]:
        raise RuntimeError(f"missing weights: {lost[:3]}{' ...' if len(lost) > 3 else ''}")
    if unexpected:
        raise RuntimeError(f"unexpected weights: {unexpected[:3]}")


def _tied(model: DiffusionGemmaForBlockDiffusion) -> list[str]:
    """Names in the state dict that share storage with an earlier-named parameter, the decoder's being kept."""
    owner: dict[int, str] = {}
    names = sorted(model.state_dict(keep_vars=True).items(), key=lambda item: not item[0].startswith("model.decoder."))
    tied = []
    for name, tensor in names:
        if owner.setdefault(id(tensor), name) != name:
            tied.append(name)
    return tied


def save(model: AsrModel, folder: Path, whisper: dict[str, Tensor] | None = None) -> None:
    """Write all weights in float16. `whisper`: the full 30 s encoder, where the model's own table is cut."""
    (folder / "backbone").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.model_dump(mode="json"), indent=1) + "\n")
    model.tokenizer.save(str(folder / "tokenizer.json"))
    encoder = whisper if whisper is not None else model.encoder.whisper.state_dict()
    tied = set(_tied(model.backbone))
    weights = {key: value for key, value in model.backbone.state_dict().items() if key not in tied}
    for path, state in (
        (folder / "encoder.safetensors", encoder),
        (folder / "adapter.safetensors", model.projector.state_dict()),
        (folder / "backbone" / "model.safetensors", weights),
    ):
        save_file({k: v.half().contiguous() for k, v in state.items()}, path, metadata={"format": "pt"})
    model.backbone.config.save_pretrained(folder / "backbone")
