"""Settings of `jobs.doctor`: those of a run; source and output may be left out."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import OutputConfig, RunConfig, SourceConfig


class DoctorSource(SourceConfig):
    """Where the audio is, if that is known already."""

    uri: str = Field("", description="as for jobs.transcribe; empty: not checked")


class DoctorOutput(OutputConfig):
    """Where the output goes, if that is known already."""

    uri: str = Field("", description="as for jobs.transcribe; empty: not checked")


class DoctorConfig(RunConfig):
    """The settings of the run that is to be checked."""

    source: DoctorSource = DoctorSource()
    output: DoctorOutput = DoctorOutput()
