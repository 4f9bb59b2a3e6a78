"""What a job must know of a model before a replica loads it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pydantic
from pydantic import Field

from pipeline.config import LANGUAGES, ConfigError, DenoiseConfig, Section, SegmentConfig
from pipeline.config_file import validate
from pipeline.model.positions import MAX_WINDOW_SECONDS
from pipeline.schemas import About


class Defaults(Section):
    """Settings that the model was made for. They count where the user sets nothing."""

    denoise: dict[str, Any] = Field(default_factory=dict)
    segment: dict[str, Any] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _known(self) -> Defaults:
        for name, section, given in (
            ("denoise", DenoiseConfig, self.denoise),
            ("segment", SegmentConfig, self.segment),
        ):
            try:
                validate(section, given)
            except ConfigError as err:
                raise ValueError(f"{name}.{str(err).splitlines()[0]}") from None
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the other stages must know of a checkpoint. The defaults are for files that do not say it."""

    window_seconds: float = MAX_WINDOW_SECONDS  # of the longest segment that the model takes
    canvas_length: int | None = None  # the most tokens of one text; None: there is no such limit
    languages: tuple[str, ...] = LANGUAGES  # codes that a recording may have
    defaults: Defaults = field(default_factory=Defaults)
    detects_language: bool = False  # where nobody says the language of a recording


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo(Facts):
    """The facts, and which model it is."""

    name: str
    revision: str
    weights_hash: str  # 16 hex digits, of all files that decide a text
    second: ModelInfo | None = None  # model.second

    @property
    def second_hash(self) -> str | None:
        """The weights_hash of model.second; None without one."""
        return self.second.weights_hash if self.second else None

    def about(self, fingerprint: str, run: str = "0") -> About:
        """What the stages of a run need to know. fingerprint: its id. run: the id of this run of the job."""
        return About(
            self.window_seconds,
            tuple(self.languages),
            f"{self.name}@{self.weights_hash}",
            fingerprint,
            run,
            self.detects_language,
            tuple(self.second.languages) if self.second else (),
        )
