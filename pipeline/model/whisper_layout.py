"""A Whisper checkpoint of transformers on disk: what a job must know of it before any weights are loaded.

A directory holds config.json (architecture WhisperForConditionalGeneration), generation_config.json, tokenizer.json and
model.safetensors or its shards. Imports no torch: drivers start and resume without it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import LANGUAGES, ConfigError

ARCHITECTURE = "WhisperForConditionalGeneration"
CONFIG, GENERATION, TOKENIZER, WEIGHTS = "config.json", "generation_config.json", "tokenizer.json", "model.safetensors"
FILES = (CONFIG, GENERATION, TOKENIZER, WEIGHTS, f"{WEIGHTS}.index.json", "model-*-of-*.safetensors")  # from a hub
POSITIONS_PER_SECOND = 50  # of the encoder: 100 mel frames / stride 2
MAX_POSITIONS = 1500  # 30 s
PROMPT_TOKENS = 4  # start, language, task, no timestamps
TIMESTAMPS = MAX_POSITIONS + 1  # tokens of 20 ms steps, 0.00 to 30.00, behind the one for "no timestamps"


@dataclass(frozen=True, slots=True)
class WhisperSpec:
    """The numbers and special tokens of a checkpoint that decide what it is given and how its answer is read."""

    mels: int
    positions: int  # of the encoder, 50 a second
    vocab_size: int
    max_tokens: int  # of one transcript at most: half the decoder's positions, as in Whisper's own decoding
    eos: tuple[int, ...]
    timestamps: range  # token ids that are no text
    language_tokens: dict[str, str]  # per language of ours its token; empty for an English-only checkpoint
    weights: tuple[Path, ...]

    @property
    def window_seconds(self) -> float:
        return self.positions / POSITIONS_PER_SECOND

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.language_tokens) or ("en",)


def is_hub_id(name: str) -> bool:
    """Whether a model name is OWNER/NAME of the Hugging Face hub: there is no such folder here."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name)) and not Path(name).exists()


def snapshot(name: str, revision: str | None) -> Path:
    """The folder of a checkpoint in the hub's cache, fetched where it is not there; HF_HUB_OFFLINE: only looked up.

    revision: a commit, so that all replicas load the same files. Raises ConfigError, also where the hub is not reached.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ConfigError(
            f"model.name: {name}: no such folder; from the hub it needs model.revision, a commit of 40 hex digits"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as err:  # noqa: BLE001 - of HTTP, of the cache, of the hub's own: whatever keeps it from us
        why = " ".join(str(err).split()) or type(err).__name__
        raise ConfigError(f"model.name: {name}@{revision}: not fetched from the hub: {why}") from None


def is_whisper(folder: Path) -> bool:
    """Whether config.json is one of transformers. Raises ConfigError where it is one of another architecture."""
    try:
        tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever reads it as ours says what is wrong
    if not isinstance(tree, dict) or "format" in tree or not {"architectures", "model_type"} & set(tree):
        return False
    found = tree.get("architectures") or [tree.get("model_type")]
    if found != [ARCHITECTURE]:
        raise ConfigError(
            f"model.name: {folder / CONFIG}: architecture {', '.join(map(str, found))}; "
            f"this version reads {ARCHITECTURE} and fullcanvas/1"
        )
    return True


def read(folder: Path) -> WhisperSpec:
    """What config.json and generation_config.json say. Raises ConfigError, one line that names the file and the key."""
    config, generation = _Keys(folder / CONFIG), _Keys(folder / GENERATION)
    positions = config.number("max_source_positions")
    if positions > MAX_POSITIONS:
        raise config.wrong("max_source_positions", f"more than {MAX_POSITIONS}, which are 30 s")
    target = config.number("max_target_positions")
    if target < 2 * PROMPT_TOKENS + 2:
        raise config.wrong("max_target_positions", f"{target} are too few")
    vocab_size = config.number("vocab_size")
    generation.number("decoder_start_token_id")
    no_timestamps = generation.number("no_timestamps_token_id")
    eos = generation.tree.get("eos_token_id")
    eos = tuple(eos) if isinstance(eos, list) else (generation.number("eos_token_id"),)
    return WhisperSpec(
        mels=config.number("num_mel_bins"),
        positions=positions,
        vocab_size=vocab_size,
        max_tokens=target // 2,
        eos=eos,
        timestamps=range(no_timestamps + 1, no_timestamps + 1 + TIMESTAMPS),
        language_tokens=_language_tokens(generation),
        weights=_weights(folder),
    )


def files(folder: Path, spec: WhisperSpec) -> list[Path]:
    """All files that decide what is heard."""
    return [folder / CONFIG, folder / GENERATION, folder / TOKENIZER, *spec.weights]


def _language_tokens(generation: _Keys) -> dict[str, str]:
    """Whisper's own codes are ours. Empty for an English-only checkpoint."""
    known = generation.tree.get("lang_to_id")
    if not generation.tree.get("is_multilingual", bool(known)):
        return {}
    if not isinstance(known, dict):
        raise generation.wrong("lang_to_id", "a multilingual checkpoint needs its language tokens here")
    tasks = generation.tree.get("task_to_id")
    if not isinstance(tasks, dict) or "transcribe" not in tasks:
        raise generation.wrong("task_to_id", "a multilingual checkpoint needs its token for `transcribe` here")
    tokens = {language: f"<|{language}|>" for language in LANGUAGES if f"<|{language}|>" in known}
    if not tokens:
        raise generation.wrong("lang_to_id", f"none of {', '.join(LANGUAGES)}")
    return tokens


def _weights(folder: Path) -> tuple[Path, ...]:
    """model.safetensors, or the shards that its index lists."""
    whole, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if whole.is_file() or not index.is_file():
        return (whole,)
    keys = _Keys(index)
    names = keys.tree.get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise keys.wrong("weight_map", "no list of shards")
    return tuple(folder / name for name in sorted(set(names.values())))


class _Keys:
    """A JSON object and its file's name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except OSError as err:
            raise ConfigError(f"model.name: {path}: {err.strerror}") from None
        except ValueError as err:
            raise ConfigError(f"model.name: {path}: {err}") from None
        if not isinstance(tree, dict):
            raise ConfigError(f"model.name: {path}: not an object but {type(tree).__name__}")
        self.tree: dict[str, Any] = tree

    def number(self, key: str) -> int:
        value = self.tree.get(key)
        if type(value) is not int or value < 0:
            raise self.wrong(key, f"{value!r} is no number" if key in self.tree else "missing")
        return value

    def wrong(self, key: str, why: str) -> ConfigError:
        return ConfigError(f"model.name: {self.path}: {key}: {why}")
