"""The settings of the gate: what a comparison with the baseline, and the rates by themselves, must hold."""

from __future__ import annotations

import pydantic
from pydantic import Field

from pipeline.config import LANGUAGES, Section

UNKNOWN = "unknown"  # the language of recordings whose source does not say


class GateConfig(Section):
    """When the gate closes (alpha, ceilings, min_coverage) and when it warns (margin)."""

    alpha: float = Field(0.05, gt=0, le=0.5, description="false alarms over all languages together")
    resamples: int = Field(1_000, ge=100, le=1_000_000, description="draws of the bootstrap")
    seed: int = Field(0, ge=0, lt=2**31, description="of these draws")
    margin: float = Field(0.003, ge=0, description="warn where a loss of more than this rate cannot be excluded")
    ceilings: dict[str, float] = Field(
        default_factory=dict, description="{en: 0.05, zh: 0.08}: fail where the rate of a language is above"
    )
    min_coverage: float = Field(0.99, ge=0, le=1, description="of recordings transcribed; fail where a set has less")

    @pydantic.field_validator("ceilings")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for language, ceiling in value.items():
            if language not in (*LANGUAGES, UNKNOWN):
                raise ValueError(f"{language} is no language; one of {', '.join(LANGUAGES)} or {UNKNOWN}")
            if not 0 <= ceiling < float("inf"):
                raise ValueError(f"{language}: a rate is 0 or more, 0.05 is 5 %")
        return value
