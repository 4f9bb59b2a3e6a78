"""Settings of `jobs.doctor`: those of a run, of which source and output may be left out."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import OutputConfig, RunConfig, SourceConfig


class DoctorSource(SourceConfig):
    """Where the audio is, where that is known already."""

    uri: str = Field("", description="as of jobs.transcribe; not given: not checked")


class DoctorOutput(OutputConfig):
    """Where the output goes, where that is known already."""

    uri: str = Field("", description="as of jobs.transcribe; not given: not checked")


class DoctorConfig(RunConfig):
    """The settings of the run that is planned."""

    source: DoctorSource = DoctorSource()
    output: DoctorOutput = DoctorOutput()
