"""The settings of `jobs.export`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import OutputConfig, Section, StorageConfig

FormatName = Literal["nemo", "lhotse", "webdataset", "huggingface", "kaldi", "srt", "vtt", "txt", "json"]


class InputConfig(Section):
    """What is exported."""

    uri: str = Field(min_length=1, description="an output of jobs.transcribe, or labels; it is only read")
    transcripts: str | None = Field(
        None, description="output of jobs.transcribe that labels are from; null: what the labels say, or input.uri"
    )


class FormatConfig(Section):
    """How it is written."""

    format: FormatName = Field(description="for training: nemo to kaldi; for people: srt to json")
    audio: Literal["auto", "segments", "reference"] = Field(
        "auto",
        description="segments: audio is cut to the label, 16 kHz mono; reference: rows point into the source; "
        "auto: segments, and for people reference",
    )
    all_rows: bool = Field(False, description="nemo: rows that are dropped too, with their reason as `_skipme`")
    shard_rows: int = Field(1000, ge=1, le=1_000_000, description="rows of one shard, about: recordings stay whole")
    tasks: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="shards that Ray cuts at the same time; null: one for each CPU; 1: in this process, without Ray",
    )
    max_lost_fraction: float = Field(
        0.05, ge=0, le=1, description="fraction of rows whose audio cannot be read; above it the job exits with 1"
    )


class ExportConfig(Section):
    """All settings of `jobs.export`."""

    input: InputConfig
    export: FormatConfig
    output: OutputConfig
    storage: StorageConfig = StorageConfig()
