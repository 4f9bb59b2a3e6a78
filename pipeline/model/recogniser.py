"""The diffusion recogniser: encoder, projector and backbone in one module, its prompts, and its weights by name."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import DiffusionGemmaForBlockDiffusion

from pipeline.model.files.layout import AsrConfig
from pipeline.model.network import backbone, lora
from pipeline.model.network.encoder import AudioEncoder
from pipeline.model.network.projector import Projector


class AsrModel(nn.Module):
    """Everything between audio samples and the vocabulary head, with the tokenizer that spells the text."""

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
            lora.attach(self.backbone, **config.lora.model_dump())
        self.prompts = prompts(config, tokenizer)

    @property
    def prompt_length(self) -> int:
        """Positions of a prompt with its audio slots; the same for every language."""
        return len(self.prompts[""]) + self.config.audio_slots - 1

    def prompt_embeds(self, audio_BSH: Tensor, languages: list[str | None]) -> Tensor:
        """Text embeddings with the audio vectors in the audio slot: [batch, prompt_length, hidden].

        audio_BSH: [batch, audio slots, hidden]. languages: one code per row, None where it is unknown.
        Raises KeyError for a language without a prompt.
        """
        tokens = torch.tensor([self.prompts[language or ""] for language in languages], device=audio_BSH.device)
        text = backbone.embed(self.backbone, tokens)
        at = self.audio_start
        return torch.cat([text[:, :at], audio_BSH.to(text.dtype), text[:, at + 1 :]], dim=1)

    @property
    def audio_start(self) -> int:
        """The first audio slot of a prompt; the same for every language."""
        return self.prompts[""].index(self.config.tokens.audio)

    def real_positions(self, real_slots_B: Tensor, length: int, width: int) -> Tensor:
        """Which positions of a sequence are left without the audio slots that only hold silence padding.

        real_slots_B: int64, audio slots with sound, the first ones of each row. length: of the whole sequence, which is
        a prompt and perhaps text after it. Returns int64 position ids [batch, width]. A row keeps the first
        length - audio_slots + real_slots of them; behind those is padding, with the id of the last position.
        """
        hidden_B1 = (self.config.audio_slots - real_slots_B)[:, None]
        places = torch.arange(width, device=real_slots_B.device)[None]
        after = places >= self.audio_start + real_slots_B[:, None]
        return torch.where(after, places + hidden_B1, places).clamp_(max=length - 1)


def prompts(config: AsrConfig, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Token ids of the prompt per language code, `` (empty) for an unknown language.

    ONE audio token stands for all audio slots. All prompts have one length and the audio token at one place, because
    the model is called without a padding mask. Raises ValueError where they do not.
    """
    tokens = config.tokens.model_dump(include={"bos", "begin_audio", "audio", "end_audio"}, exclude_none=True)
    for key, token in tokens.items():
        if tokenizer.id_to_token(token) is None:
            raise ValueError(f"tokens.{key}: the tokenizer has no token {token}")
    audio = tokenizer.id_to_token(config.tokens.audio) or ""
    made = {}
    for language in ["", *config.languages]:
        if language not in config.prompt.languages:
            raise ValueError(f"prompt.languages: no text for {language!r}")
        words = config.prompt.languages[language]
        before, after = (part.replace("{language}", words) for part in (config.prompt.before, config.prompt.after))
        made[language] = list(tokenizer.encode(before + audio + after, add_special_tokens=False).ids)
        for key, token in tokens.items():
            if made[language].count(token) != 1:
                raise ValueError(f"prompt for {language!r} must have tokens.{key} once: {made[language]}")
    if len({(len(ids), ids.index(config.tokens.audio)) for ids in made.values()}) != 1:
        raise ValueError(
            "prompts of all languages must have one length and one audio position: there is no padding mask"
        )
    return made


def encoder_state(model: AsrModel) -> dict[str, Tensor]:
    """The encoder's weights under their names in encoder.safetensors."""
    return model.encoder.whisper.state_dict()


def adapter_state(model: AsrModel) -> dict[str, Tensor]:
    """Projector and LoRA weights under their names in adapter.safetensors; they share the model's storage."""
    loras = {key: weight.detach() for key, weight in lora.state(model.backbone).items()}
    return model.projector.state_dict() | loras


def backbone_state(model: DiffusionGemmaForBlockDiffusion) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The backbone's weights under their names in backbone/, without LoRA; they share the model's storage.

    Tied weights are stored once, under the decoder's name. The second dict gives, for each other name of a tied
    weight, the name under which it is stored.
    """
    everything = model.state_dict(keep_vars=True).items()
    named = [(lora.base_name(name), tensor) for name, tensor in everything if not lora.is_own(name)]
    named.sort(key=lambda item: not item[0].startswith("model.decoder."))
    owners: dict[int, str] = {}
    state, tied = {}, {}
    for name, tensor in named:
        owner = owners.setdefault(id(tensor), name)
        if owner == name:
            state[name] = tensor.detach()
        else:
            tied[name] = owner
    return state, tied
