"""Checkpoint format `fullcanvas/1` (layout.py): build, load and save a recogniser of any size."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import DiffusionGemmaForBlockDiffusion

from pipeline.model import device_map
from pipeline.model.files import hub, importer, weights
from pipeline.model.files.layout import (
    ASSETS,
    AsrConfig,
    EncoderSpec,
    ModelInfo,
    ProjectorSpec,
    PromptSpec,
    TokensSpec,
    describe,
    directory,
    read_config,
    write_config,
)
from pipeline.model.files.materialise import materialise
from pipeline.model.files.weights import unusable
from pipeline.model.network import backbone, lora
from pipeline.model.network.encoder import AudioEncoder
from pipeline.model.network.projector import Projector
from pipeline.model.quantisation import Int8Weight, int8_weights, quantise

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


VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")  # transformers' image tower: never used


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
        if config.lora is not None:
            lora.attach(self.backbone, config.lora)
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
    tokens = config.tokens.model_dump(include={"bos", "begin_audio", "audio", "end_audio"}, exclude_none=True)
    for key, token in tokens.items():
        if tokenizer.id_to_token(token) is None:
            raise ValueError(f"tokens.{key}: the tokenizer has no token {token}")
    audio = tokenizer.id_to_token(config.tokens.audio) or ""
    prompts = {}
    for language in ["", *config.languages]:
        if language not in config.prompt.languages:
            raise ValueError(f"prompt.languages: no text for {language!r}")
        words = config.prompt.languages[language]
        before, after = (part.replace("{language}", words) for part in (config.prompt.before, config.prompt.after))
        prompts[language] = list(tokenizer.encode(before + audio + after, add_special_tokens=False).ids)
        for key, token in tokens.items():
            if prompts[language].count(token) != 1:
                raise ValueError(f"prompt for {language!r} must hold tokens.{key} once: {prompts[language]}")
    if len({(len(ids), ids.index(config.tokens.audio)) for ids in prompts.values()}) != 1:
        raise ValueError(
            "prompts of all languages must have one length and one audio position: there is no padding mask"
        )
    return prompts


def load(
    name: str,
    revision: str | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantization: Literal["none", "int8"] = "none",
    verify: bool = False,
    plan: Callable[[AsrModel], Sequence[int] | None] | None = None,
) -> AsrModel:
    """A recogniser ready for inference. Raises ConfigError where a file is missing or does not fit.

    Weights exist once, on `device` in `dtype`: files are mapped into memory and copied from there, tensor by tensor.
    Buffers that are computed, not loaded (mel filters, rotary frequencies), are float32 whatever the dtype.
    quantization: of the backbone's layers, tensor by tensor (quantisation.py).
    verify: compare all hashes that are known (`hub.verify`) first. plan: is called with the model on the meta device,
    before anything is allocated; it may raise, or say on which GPU each layer goes (device_map.py).
    """
    folder = directory(name, revision)
    config = read_config(folder)
    files = hub.locate(folder, config.hub, revision)
    if verify:
        hub.verify(folder, files)
    try:
        tokenizer = Tokenizer.from_file(str(files.tokenizer))
    except Exception as err:  # noqa: BLE001 - tokenizers raises bare Exception
        raise unusable(files.tokenizer, err) from None
    try:
        with torch.device("meta"):
            model = AsrModel(config, tokenizer)
    except Exception as err:  # noqa: BLE001 - whatever torch and transformers raise on numbers that do not fit together
        raise unusable(folder / "config.json", err) from None
    _check_numbers(config, files.backbone[0].with_name("config.json"))
    if quantization == "int8":
        quantise(model.backbone)
    layers = plan(model) if plan is not None else None
    if layers is None:
        materialise(model, device=device, dtype=dtype)
    else:
        devices = [f"{device}:{gpu}" for gpu in range(max(layers) + 1)]
        materialise(model, device=devices[0], dtype=dtype, places=device_map.places(model, layers, devices))
        device_map.connect(model, layers, devices)
    weights.fill(encoder_state(model), files.encoder, rename=weights.whisper_name, rows=model.encoder.rows)
    own = adapter_state(model)
    weights.fill(own, files.adapter, rename=_adapter_names(files.adapter[0], own))
    state, tied = backbone_state(model.backbone)
    weights.fill(state, files.backbone, rename=lambda key: tied.get(key, key), optional=VISION)
    return model


def _check_numbers(config: AsrConfig, path: Path) -> None:
    """Whether the backbone's own config says the same as ours, where it has one: shapes alone do not tell."""
    if not path.is_file():
        return
    try:
        found = backbone.differences(config.backbone, json.loads(path.read_text(encoding="utf-8")))
    except Exception as err:  # noqa: BLE001 - whatever transformers raises on what is no config of its own
        raise unusable(path, err) from None
    if found:
        raise unusable(path, ValueError(f"other numbers than in the model's config.json: {'; '.join(found)}"))


def _adapter_names(path: Path, own: dict[str, Tensor]) -> Callable[[str], str | None]:
    """Names as they are, where the file has at least one of ours; else translated, all or none. Raises ConfigError."""
    stored = weights.shapes(path)
    if stored.keys() & own.keys() or not stored:
        return lambda name: name
    matches = importer.match(stored, {name: tuple(weight.shape) for name, weight in own.items()})
    importer.refuse_partial(matches, f"model.name: {path}")
    return matches.names.get


def encoder_state(model: AsrModel) -> dict[str, Tensor]:
    """The encoder's weights under their names in encoder.safetensors."""
    return model.encoder.whisper.state_dict()


def adapter_state(model: AsrModel) -> dict[str, Tensor]:
    """Projector and LoRA weights under their names in adapter.safetensors; they share the model's storage."""
    loras = {key: weight.detach() for key, weight in lora.state(model.backbone).items()}
    return model.projector.state_dict() | loras


def backbone_state(
    model: DiffusionGemmaForBlockDiffusion,
) -> tuple[dict[str, Tensor | Int8Weight], dict[str, str]]:
    """Weights under their names in backbone/, and for each other name of a tied one that under which it is stored.

    Tied weights are stored once, under the decoder's name. LoRA is not part of it.
    """
    everything = model.state_dict(keep_vars=True).items()
    named = [(lora.base_name(name), tensor) for name, tensor in everything if not lora.is_own(name)]
    named.sort(key=lambda item: not item[0].startswith("model.decoder."))
    tensors = dict(named)
    packed = {values: (weight, scale) for weight, values, scale in int8_weights(tensors)}
    scales = {scale for _, scale in packed.values()}
    owners: dict[int, str] = {}
    state: dict[str, Tensor | Int8Weight] = {}
    tied = {}
    for name, tensor in tensors.items():
        if name in scales:
            continue
        known, scale = packed.get(name, (name, None))
        owner = owners.setdefault(id(tensor), known)
        if owner != known:
            tied[known] = owner
        else:
            state[known] = tensor.detach() if scale is None else Int8Weight(tensor.detach(), tensors[scale].detach())
    return state, tied


def save(
    model: AsrModel, folder: Path, whisper: dict[str, Tensor] | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write all weights in `dtype`. `whisper`: the full 30 s encoder, where the model's own table is cut.

    Raises ValueError for a quantised model.
    """
    (folder / "backbone").mkdir(parents=True, exist_ok=True)
    write_config(folder, model.config)
    model.tokenizer.save(str(folder / "tokenizer.json"))
    encoder = whisper if whisper is not None else encoder_state(model)
    weights.write(encoder, folder / hub.PARTS["encoder"], dtype)
    weights.write(adapter_state(model), folder / hub.PARTS["adapter"], dtype)
    weights.write(backbone_state(model.backbone)[0], folder / hub.PARTS["backbone"], dtype)
    model.backbone.config.save_pretrained(folder / "backbone")
