"""Checkpoint format `fullcanvas/1` on disk: its config.json, and what a job must know before it loads any weights.

A folder has config.json, encoder.safetensors (unless config.json names an embedded model that has the same),
adapter.safetensors (projector and LoRA), backbone/ (a transformers checkpoint), tokenizer.json and MODEL_CARD.md.
Imports no torch, because drivers start and resume without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

from pipeline.config import ConfigError, RunConfig, Section
from pipeline.config_file import mistakes
from pipeline.model import engines
from pipeline.model.files import hub
from pipeline.model.files.facts import Defaults, Facts, ModelInfo
from pipeline.model.files.hub import HubSpec
from pipeline.model.positions import MAX_WINDOW_SECONDS, POSITIONS_PER_SECOND
from pipeline.schemas import SAMPLE_RATE

FORMAT = "fullcanvas/1"
ASSETS = hub.ASSETS
FULL_SIZE = "diffusion-gemma-asr-small"
EMBEDDED = ("tiny", "whisper-base", FULL_SIZE)  # folders of ASSETS; the last has no weights
WEIGHTS = tuple(hub.PARTS.values())


class EncoderSpec(Section):
    """Dimensions of the Whisper encoder."""

    d_model: int
    layers: int
    heads: int
    ffn: int
    mels: int = 80


class ProjectorSpec(Section):
    """Dimensions of the projector; its input and output follow from encoder and backbone."""

    hidden: int
    subsample: int
    final_norm: bool = False


class PromptSpec(Section):
    """The prompt's text around the audio slots. `{language}` is replaced by the language's own text."""

    before: str
    after: str
    languages: dict[str, str] = Field(description="text per language code; `` (empty) where the language is unknown")
    silence: Literal["seen", "hidden"] = Field(
        "seen", description="whether the model was trained to see audio slots that only hold silence padding"
    )


class TokensSpec(Section):
    """Ids of special tokens. Those that may be null are only compared with the tokenizer."""

    pad: int
    eos: list[int]
    audio: int
    ctc_blank: int
    bos: int | None = None
    begin_audio: int | None = None
    end_audio: int | None = None


class LoraSpec(Section):
    """Low-rank adapters on the backbone's attention: one set for the prompt pass, one for denoising (lora.py)."""

    rank: int = Field(ge=1, le=65_536, description="inner dimension of the two matrices")
    alpha: float = Field(gt=0, le=1_000_000, description="the product of the two matrices is scaled by alpha / rank")
    targets: list[Literal["q_proj", "k_proj", "v_proj", "o_proj"]] = Field(
        min_length=1, description="which matrices of the attention"
    )


class AsrConfig(Section):
    """config.json of a checkpoint."""

    format: Literal["fullcanvas/1"]
    name: str
    window_seconds: float = Field(gt=0, le=MAX_WINDOW_SECONDS)
    canvas_length: int = Field(ge=1)
    languages: list[str]
    encoder: EncoderSpec
    projector: ProjectorSpec
    backbone: dict[str, Any] = Field(description="transformers' DiffusionGemmaConfig")
    prompt: PromptSpec
    tokens: TokensSpec
    lora: LoraSpec | None = None
    hub: HubSpec | None = None
    defaults: Defaults | None = None

    @property
    def window_samples(self) -> int:
        """Samples of one window at 16 kHz."""
        return round(self.window_seconds * SAMPLE_RATE)

    @property
    def encoder_frames(self) -> int:
        """Positions of the encoder's output for one window."""
        return round(self.window_seconds * POSITIONS_PER_SECOND)

    @property
    def audio_slots(self) -> int:
        """Audio vectors in a prompt."""
        return slots_for(self.encoder_frames, self.projector.subsample)

    def real_slots(self, samples: int) -> int:
        """How many audio slots have sound of a segment of `samples` samples at 16 kHz; the others hold its padding."""
        frames = -(-samples * POSITIONS_PER_SECOND // SAMPLE_RATE)
        return min(self.audio_slots, max(1, slots_for(frames, self.projector.subsample)))

    def seen_slots(self, samples: int) -> int:
        """How many audio slots of such a segment the backbone sees: those with sound, or all of them."""
        return self.real_slots(samples) if self.prompt.silence == "hidden" else self.audio_slots

    @property
    def hidden_size(self) -> int:
        """Width of the backbone."""
        return int(self.backbone["text_config"]["hidden_size"])

    @property
    def vocab_size(self) -> int:
        """Tokens of the backbone's vocabulary."""
        return int(self.backbone["text_config"]["vocab_size"])


def slots_for(frames: int, subsample: int) -> int:
    """Audio vectors for `frames` encoder frames: each convolution of stride 2 and padding 1 halves, rounding up."""
    while subsample > 1:
        frames, subsample = (frames + 1) // 2, subsample // 2
    return frames


def directory(name: str, revision: str | None = None) -> Path:
    """The folder of a model name. Raises ConfigError."""
    folder = ASSETS / name if name in EMBEDDED else Path(name)
    if engines.is_hub_id(name):
        folder = engines.snapshot(name, revision)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model.name: {name}: no config.json in {folder}")
    return folder


def write_config(folder: Path, config: AsrConfig) -> None:
    """Write config.json without its null values."""
    tree = config.model_dump(mode="json", exclude_none=True)
    (folder / "config.json").write_text(json.dumps(tree, indent=1) + "\n")


def read_config(folder: Path) -> AsrConfig:
    """config.json, validated. Raises ConfigError in one line."""
    path = folder / "config.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ConfigError(f"{path}: {err}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: not an object but {type(tree).__name__}")
    if tree.get("format") != FORMAT:
        raise ConfigError(f"{path}: format {tree.get('format')!r}, this version reads {FORMAT!r}")
    try:
        return AsrConfig.model_validate(tree)
    except pydantic.ValidationError as err:
        raise ConfigError(f"{path}: {mistakes(err, AsrConfig)[0]}") from None


def describe(name: str, revision: str | None = None) -> ModelInfo:
    """What a job must know of a model, with a hash of its weights. Raises ConfigError naming a missing file."""
    folder = directory(name, revision)
    engine = engines.engine_of(folder)
    if engine is not engines.DIFFUSION:
        facts = engine.facts(folder)
        return ModelInfo(
            **{fact.name: getattr(facts, fact.name) for fact in fields(Facts)},
            name=name if engines.is_hub_id(name) else folder.resolve().name,
            revision=revision or "local",
            weights_hash=_digest(engine.files(folder)),
        )
    config = read_config(folder)
    pinned = hub.pins(folder, config.hub, revision)
    files = [folder / "config.json", folder / "tokenizer.json"]
    if "backbone" in pinned and not files[1].is_file():
        files.pop()
    files += [path for part in hub.PARTS if part not in pinned for path in hub.in_folder(folder, part, config.hub)]
    digest = _digest(files)
    commits = ",".join(f"{name}@{part.revision}" for name, part in pinned.items())
    return ModelInfo(
        name=config.name,
        revision=commits or revision or "local",
        weights_hash=hashlib.sha256(f"{digest},{commits}".encode()).hexdigest()[:16] if pinned else digest,
        window_seconds=config.window_seconds,
        canvas_length=config.canvas_length,
        languages=tuple(config.languages),
        defaults=config.defaults or Defaults(),
    )


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Errors about a model in the block name the setting `key`, where they would say model.name."""
    try:
        yield
    except ConfigError as err:
        raise ConfigError(str(err).replace("model.name:", f"{key}:", 1)) from None


def resolve(config: RunConfig) -> tuple[RunConfig, ModelInfo]:
    """The config with the model's own defaults where the user set nothing, and what is known of the model.

    With model.second, the window is one that both models take. Raises ConfigError, naming the key or the missing file.
    """
    info = describe(config.model.name, config.model.revision)
    if config.model.second is not None:
        with named("model.second"):
            second = describe(config.model.second, config.model.second_revision)
        info = replace(info, window_seconds=min(info.window_seconds, second.window_seconds), second=second)
    own = {
        name: type(section).model_validate(
            defaults | {key: value for key, value in section if key in section.model_fields_set}
        )
        for name, section, defaults in (
            ("denoise", config.denoise, info.defaults.denoise),
            ("segment", config.segment, info.defaults.segment),
        )
    }
    return config.model_copy(update=own), info


def _digest(paths: Iterable[Path]) -> str:
    """First 16 hex digits of the SHA-256 of the files' hashes, in order. Raises ConfigError naming a missing file."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as err:
            raise ConfigError(f"model.name: {path}: {err.strerror}") from None
    return digest.hexdigest()[:16]
