"""Constants in the Python and JSON files beside an adapter, compared with ours. Imports no torch, runs no code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import DenoiseConfig, SegmentConfig
from pipeline.model.files.constant_reader import Constant, Value, read_json, read_python, snake
from pipeline.model.files.layout import FORMAT, AsrConfig

LARGEST = 2**20  # bytes of a file that is read
NAMES = {  # our key to the names that such a constant plausibly has, in lower case without `default_`
    "prompt.before": "prompt instruction instructions prompt_text instruction_text asr_prompt asr_instruction "
    "user_prompt system_prompt text_prompt prompt_template prompt_prefix prompt_before content text",
    "lora.rank": "rank r lora_rank lora_r",
    "lora.alpha": "alpha lora_alpha",
    "lora.targets": "target_modules targets lora_targets lora_target_modules",
    "canvas_length": "canvas canvas_length canvas_len canvas_size canvas_tokens",
    "encoder.d_model": "whisper_dim whisper_d_model audio_dim",
    "projector.hidden": "proj_hidden projector_hidden proj_dim",
    "projector.subsample": "subsample subsampling subsample_factor audio_subsample",
    "backbone.text_config.hidden_size": "d_model llm_dim text_dim gemma_dim",
    "backbone.text_config.final_logit_softcapping": "softcap logit_softcap final_logit_softcapping logits_softcap",
    "tokens.pad": "pad pad_id pad_token_id",
    "tokens.bos": "bos bos_id bos_token_id",
    "tokens.eos": "eos eos_id eos_ids eos_token_id eos_token_ids",
    "tokens.begin_audio": "boa boa_id boa_token_id begin_audio begin_audio_id audio_begin_id begin_of_audio_token_id",
    "tokens.audio": "audio_id audio_token_id audio_token audio_token_index audio_placeholder_id",
    "tokens.end_audio": "eoa eoa_id eoa_token_id end_audio end_audio_id audio_end_id end_of_audio_token_id",
    "tokens.ctc_blank": "blank blank_id ctc_blank ctc_blank_id blank_token_id",
    "denoise.max_steps": "steps num_steps n_steps max_steps denoise_steps denoising_steps num_denoising_steps "
    "diffusion_steps num_diffusion_steps num_inference_steps max_denoising_steps",
    "denoise.entropy_bound": "entropy_bound entropy_threshold entropy_limit",
    "denoise.temperature_max": "temperature_max t_max temp_max temperature_start t_start temp_start max_temperature",
    "denoise.temperature_min": "temperature_min t_min temp_min temperature_end t_end temp_end min_temperature",
    "segment.target_seconds": "target_seconds target_s target_sec chunk_seconds chunk_s chunk_sec segment_seconds",
    "segment.search_seconds": "search_seconds search_s search_sec search_window search_window_s",
}
KEYS = {name: key for key, names in NAMES.items() for name in names.split()}
SETTINGS = ("denoise.", "segment.")  # beginnings of keys that a job has; all others stand in config.json


@dataclass(frozen=True, slots=True)
class Finding:
    """A constant beside ours, or a file that cannot be read. advice: what to set where they differ."""

    differs: bool
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"WARN {self.text}: {self.advice}" if self.differs else self.text


def compare(folder: Path, config: AsrConfig) -> list[Finding]:
    """All constants in the folder's files that have a meaning for us, by key and value; never raises."""
    constants: list[Constant] = []
    findings: list[Finding] = []
    for path in sorted([*folder.glob("*.py"), *folder.glob("*config.json")]):
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError(f"larger than {LARGEST} bytes")
            data = path.read_bytes()
            if path.suffix == ".py":
                constants += read_python(path.name, data)
            elif f'"{FORMAT}"'.encode() not in data:  # our own config.json
                constants += read_json(path.name, data)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as err:
            why = " ".join(str(err).split())[:200] or type(err).__name__
            findings.append(Finding(True, f"{path.name}: not readable ({why!r})", "compare its constants yourself"))
    return findings + _compared(constants, config)


def _compared(constants: Iterable[Constant], config: AsrConfig) -> list[Finding]:
    """A finding for each of our keys and each value that the files have for it."""
    ours = _ours(config)
    found: dict[tuple[str, Value], list[str]] = {}
    for constant in constants:
        key = KEYS.get(snake(constant.name), "")
        value = _meaning(key, constant.value)
        if value is not None and ours.get(key) is not None:
            found.setdefault((key, value), []).append(f"{constant.place} ({constant.name})")
    findings = []
    for (key, value), places in sorted(found.items(), key=lambda item: list(NAMES).index(item[0][0])):
        own = ours[key]
        shown = ", ".join(places[:3]) + (", ..." if places[3:] else "")
        text = f"{key}: {value!r} in {shown}, ours {own!r}"
        place = "" if key.startswith(SETTINGS) else " in config.json"
        advice = f"set {key} to {value!r}{place} if that is what it recognises with"
        findings.append(Finding(not _same(key, value, own), text, advice))
    return findings


def _ours(config: AsrConfig) -> dict[str, Value | None]:
    """Our value of every key, with the model's own defaults for denoise and segment; None where there is none."""
    defaults = config.defaults
    tree = config.model_dump() | {
        "denoise": DenoiseConfig.model_validate(defaults.denoise if defaults else {}).model_dump(),
        "segment": SegmentConfig.model_validate(defaults.segment if defaults else {}).model_dump(),
    }
    tree["prompt"]["before"] = config.prompt.before + config.prompt.after
    ours: dict[str, Value | None] = {}
    for key in NAMES:
        value: Any = tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        ours[key] = _meaning(key, tuple(value) if isinstance(value, list) else value)
    ours["prompt.before"] = ours["prompt.before"] or ""  # a prompt without words differs from one with words
    return ours


def _meaning(key: str, value: Any) -> Value | None:
    """What a value says about a key, in one spelling for both sides; None where it says nothing about it."""
    if key == "prompt.before":
        words = " ".join(re.sub(r"<[^<>]*>|\{[^{}]*\}", " ", value).split()) if isinstance(value, str) else ""
        return words if re.search(r"[^\W\d_]", words) and re.search(r"[ :]", words) else None
    if key == "lora.targets":
        text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        classes = [letters for group in re.findall(r"\[([a-z]+)\]_proj", text) for letters in group]
        groups = [word for group in re.findall(r"\(([a-z|:?]+)\)_proj", text) for word in re.findall("[a-z]+", group)]
        plain = re.findall(r"(?<![a-z])([a-z]+)_proj", text)
        return tuple(sorted({f"{word}_proj" for word in (*classes, *groups, *plain)})) or None
    if key == "tokens.eos" and isinstance(value, tuple):
        return tuple(token for token in value if isinstance(token, int)) or None
    return value if isinstance(value, int | float) else None


def _same(key: str, theirs: Value, own: Value | None) -> bool:
    """Whether both say the same. One end token of ours is enough."""
    if key == "tokens.eos" and isinstance(own, tuple):
        return set(theirs if isinstance(theirs, tuple) else (theirs,)) <= set(own)
    return theirs == own
