"""A Whisper checkpoint of transformers on disk: what a job must know of it before it loads any weights.

A folder has config.json (architecture WhisperForConditionalGeneration), generation_config.json, tokenizer.json and
model.safetensors or its shards. Imports no torch, because drivers start and resume without it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import LANGUAGES, ConfigError
from pipeline.model.files import hub
from pipeline.model.files.facts import Defaults, Facts
from pipeline.model.positions import MAX_POSITIONS, MAX_WINDOW_SECONDS, POSITIONS_PER_SECOND

ARCHITECTURE = "WhisperForConditionalGeneration"
CONFIG, GENERATION, TOKENIZER, WEIGHTS = "config.json", "generation_config.json", "tokenizer.json", "model.safetensors"
NEEDED = (CONFIG, GENERATION, TOKENIZER)  # beside the weights
# Whisper takes 30 s at a time, and a shorter segment costs as much. Short prompts of people that are put together with
# 1 s or 2.5 s of silence between them had fewer errors than each alone.
JOIN_MS = 2000
PROMPT_TOKENS = 4  # start, language, task, no timestamps
TIMESTAMPS = MAX_POSITIONS + 1  # tokens, 0.00 s to 30.00 s in steps of 20 ms; they follow "no timestamps"


@dataclass(frozen=True, slots=True)
class WhisperSpec:
    """Numbers and special tokens of a checkpoint: they decide its input and how its output is read."""

    mels: int
    positions: int  # of the encoder, 50 per second
    vocab_size: int
    max_tokens: int  # of one transcript: half the decoder's positions, as in Whisper's own code
    eos: tuple[int, ...]
    timestamps: range  # ids of tokens that are no text
    start: int  # token with which each text begins
    transcribe: int | None  # None: an English-only checkpoint
    no_timestamps: int
    language_ids: dict[str, int]  # token of every language code; empty for an English-only checkpoint
    alignment_heads: dict[int, list[int]]  # by decoder layer: heads that attend to where a token is spoken
    weights: tuple[Path, ...]

    @property
    def no_speech(self) -> int:
        """The token whose probability behind the start is that of no speech."""
        return self.no_timestamps - 1

    def prompt(self, language: int | None) -> list[int]:
        """The tokens before a text in the language of this token."""
        asked = [language, self.transcribe] if language is not None and self.transcribe is not None else []
        return [self.start, *asked, self.no_timestamps]

    @property
    def prompt_tokens(self) -> int:
        """How many tokens a prompt has."""
        return PROMPT_TOKENS if self.language_ids else PROMPT_TOKENS - 2

    @property
    def window_seconds(self) -> float:
        """Length of the audio that the encoder takes."""
        return self.positions / POSITIONS_PER_SECOND

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that may be asked for."""
        return tuple(code for code in LANGUAGES if code in self.language_ids) or ("en",)


def read(folder: Path) -> WhisperSpec:
    """Read config.json and generation_config.json. Raises ConfigError, one line that names the file and the key."""
    config = _Keys(folder / CONFIG)
    vocab_size = config.number("vocab_size")
    generation = _Keys(folder / GENERATION, tokens=vocab_size)
    positions = config.number("max_source_positions")
    if positions > MAX_POSITIONS:
        raise config.wrong("max_source_positions", f"more than {MAX_POSITIONS}, which are {MAX_WINDOW_SECONDS} s")
    target = config.number("max_target_positions")
    if target < 2 * PROMPT_TOKENS + 2:
        raise config.wrong("max_target_positions", f"{target} are too few")
    start = generation.number("decoder_start_token_id")
    no_timestamps = generation.number("no_timestamps_token_id")
    languages = _languages(generation)
    return WhisperSpec(
        mels=config.number("num_mel_bins"),
        positions=positions,
        vocab_size=vocab_size,
        max_tokens=target // 2,
        eos=generation.numbers("eos_token_id"),
        timestamps=range(no_timestamps + 1, no_timestamps + 1 + TIMESTAMPS),
        start=start,
        transcribe=generation.tree["task_to_id"]["transcribe"] if languages else None,
        no_timestamps=no_timestamps,
        language_ids=languages,
        alignment_heads=_alignment_heads(generation, config),
        weights=hub.shards(folder / WEIGHTS),
    )


def facts(folder: Path) -> Facts:
    """What the other stages must know of a checkpoint. Raises ConfigError as `read`."""
    spec = read(folder)
    return Facts(
        window_seconds=spec.window_seconds,
        canvas_length=spec.max_tokens,
        languages=spec.languages,
        defaults=Defaults(segment={"join_ms": JOIN_MS}),
        detects_language=bool(spec.language_ids),
    )


def _languages(generation: _Keys) -> dict[str, int]:
    """Token per language code, Whisper's codes being ours. Empty for an English-only checkpoint."""
    known = generation.tree.get("lang_to_id")
    if not generation.tree.get("is_multilingual", bool(known)):
        return {}
    if not isinstance(known, dict) or not all(generation.fits(token) for token in known.values()):
        raise generation.wrong("lang_to_id", "a multilingual checkpoint needs its language tokens here")
    tasks = generation.tree.get("task_to_id")
    if not isinstance(tasks, dict) or not generation.fits(tasks.get("transcribe")):
        raise generation.wrong("task_to_id", "a multilingual checkpoint needs its token for `transcribe` here")
    tokens = {name.strip("<|>"): token for name, token in known.items()}
    if not tokens.keys() & set(LANGUAGES):
        raise generation.wrong("lang_to_id", f"none of {', '.join(LANGUAGES)}")
    return tokens


def _alignment_heads(generation: _Keys, config: _Keys) -> dict[int, list[int]]:
    """The heads that the checkpoint names, by layer; all of the last half of the layers where it names none."""
    layers, heads = config.number("decoder_layers"), config.number("decoder_attention_heads")
    named = generation.tree.get("alignment_heads")
    if named is None:
        return {layer: list(range(heads)) for layer in range(layers // 2, layers)}
    try:
        pairs = [(int(layer), int(head)) for layer, head in named]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or any(not (0 <= layer < layers and 0 <= head < heads) for layer, head in pairs):
        raise generation.wrong("alignment_heads", f"not pairs of a layer below {layers} and a head below {heads}")
    return {layer: [head for of, head in pairs if of == layer] for layer, _ in pairs}


class _Keys:
    """A JSON object and the name of its file. Its numbers are counts from 1 on, or ids below `tokens`."""

    def __init__(self, path: Path, *, tokens: int | None = None) -> None:
        self.path, self.tokens = path, tokens
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
        """The value of a key. Raises ConfigError where it is missing or out of range."""
        if key not in self.tree:
            raise self.wrong(key, "missing")
        value = self.tree[key]
        if not self.fits(value):
            what = "count" if self.tokens is None else f"token of {self.tokens}"
            raise self.wrong(key, f"{value!r} is no {what}")
        return int(value)

    def numbers(self, key: str) -> tuple[int, ...]:
        """One number or a list of them."""
        value = self.tree.get(key)
        if isinstance(value, list) and value and all(map(self.fits, value)):
            return tuple(value)
        return (self.number(key),)

    def fits(self, value: object) -> bool:
        """Whether a value is a number in range."""
        if type(value) is not int:
            return False
        return value >= 1 if self.tokens is None else 0 <= value < self.tokens

    def wrong(self, key: str, why: str) -> ConfigError:
        """The error about a key, to be raised."""
        return ConfigError(f"model.name: {self.path}: {key}: {why}")
