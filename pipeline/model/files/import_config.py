"""Settings of `jobs.import_model`. Imports no torch: the job's help comes at once."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import Section


class ImportConfig(Section):
    """The parts of one folder in format fullcanvas/1."""

    output: str = Field(min_length=1, description="folder to write; it must not exist yet, or be empty")
    base: str = Field("diffusion-gemma-asr-small", description="model or folder whose config.json is taken")
    adapter: list[str] = Field(
        [], description="files (.safetensors, .pt, .bin) and PEFT folders that together have projector and LoRA"
    )
    encoder: str | None = Field(None, description="Whisper encoder: of transformers (.safetensors) or OpenAI (.pt)")
    encoder_heads: int | None = Field(
        None, ge=1, le=1_024, description="attention heads of that encoder; null: one per 64 of its width"
    )
    backbone: str | None = Field(
        None,
        description="folder of a DiffusionGemma checkpoint, whose files are linked, not copied; null: from the hub",
    )
    names: dict[str, str] = Field(
        {},
        description="our name for a foreign weight whose role is not recognised; empty: leave it out, with * for many",
    )
