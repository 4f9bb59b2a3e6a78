"""The settings of `jobs.calibrate`."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import OutputConfig, Section, StorageConfig
from pipeline.evaluation.settings import NormaliserName


class CalibrateSet(Section):
    """Transcripts with references: an output of jobs.transcribe, or of jobs.evaluate with sets of its own."""

    output: str = Field(min_length=1, description="where it is; it is only read")
    normaliser: NormaliserName = Field("auto", description="as that of a set of jobs.evaluate")


class CalibrateConfig(Section):
    """All settings of `jobs.calibrate`."""

    sets: dict[str, CalibrateSet] = Field(
        default_factory=dict, description="what to fit on, by name; all of one model and its settings"
    )
    source_column: str | None = Field(
        None, description="key of the metadata that says where a recording is from, for the report; null: the set"
    )
    output: OutputConfig = Field(description="where calibrator.json and the report go; --apply: the output it is for")
    calibrator: str | None = Field(None, description="--apply: a file of jobs.calibrate; null: raw confidences again")
    storage: StorageConfig = StorageConfig()
