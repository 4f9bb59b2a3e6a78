"""The settings of `jobs.evaluate`: the sets, the baseline, and when the gate closes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from pipeline.config import (
    LANGUAGES,
    ComputeConfig,
    DecodeConfig,
    DenoiseConfig,
    Misfit,
    ModelConfig,
    OutputConfig,
    PlanConfig,
    RunConfig,
    Section,
    SegmentConfig,
    SourceConfig,
    StorageConfig,
    place,
)
from pipeline.config_file import keys, mistakes
from pipeline.evaluation.corrupt import CorruptConfig
from pipeline.evaluation.tracking import MlflowConfig
from pipeline.schemas import BadRecording
from pipeline.sources.access.languages import any_language

NormaliserName = Literal["auto", "english", "multilingual", "mandarin", "spoken", "whisper-compatible"]
TEXTS_OF = ("source", "output", "hypotheses")  # the keys of a set of which it has one
PREVIOUS = "previous"  # the baseline that is the last evaluation
UNKNOWN = "unknown"  # the language where the source does not name one
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # names that become part of a path
_UNSAFE = "letters, digits, points, underscores and hyphens only: it becomes part of a path"


def _as_rate(value: Any) -> Any:
    """A rate of "5%" or "5 %" as 0.05. A number above 1 is refused: it may be meant in percent."""
    percent = isinstance(value, str) and value.rstrip().endswith("%")
    try:
        rate = float(value.rstrip().removesuffix("%") if percent else value)
    except (TypeError, ValueError):
        return value
    if rate > 1 and not percent:
        raise ValueError(f"a rate above 1 needs a percent sign: {rate:g}% or {rate / 100:g}, else {100 * rate:g}%")
    return rate / 100 if percent else rate


# Insertions can make an error rate higher than 100 %.
Rate = Annotated[float, Field(ge=0, le=100), pydantic.BeforeValidator(_as_rate)]


class GateConfig(Section):
    """When the gate closes (alpha, ceilings, min_coverage) and when it warns (margin)."""

    alpha: float = Field(0.05, gt=0, le=0.5, description="share of false alarms, over all languages together")
    resamples: int = Field(1_000, ge=100, le=1_000_000, description="resamples of the bootstrap")
    seed: int = Field(0, ge=0, lt=2**31, description="of the bootstrap")
    margin: float = Field(
        0.003, ge=0, le=1, description="warn where a loss above this rate cannot be excluded; 0.003: 0.3 points"
    )
    ceilings: dict[str, Rate] = Field(
        default_factory=dict, description="{en: 0.05, zh: 8%}: fail where the rate of a language is higher"
    )
    min_coverage: float = Field(0.99, ge=0, le=1, description="share transcribed; fail where a set has less")

    @pydantic.field_validator("ceilings")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for language in value:
            if language not in (*LANGUAGES, UNKNOWN):
                raise ValueError(f"{language} is no language; one of {', '.join(LANGUAGES)} or {UNKNOWN}")
        return value


class SetConfig(Section):
    """One evaluated set: audio to transcribe, a finished output of jobs.transcribe, or texts of any recogniser."""

    source: SourceConfig | None = Field(None, description="audio to transcribe for this evaluation")
    output: str | None = Field(None, description="or a finished output of jobs.transcribe, which is only read")
    hypotheses: str | None = Field(
        None,
        description="or texts of any recogniser: CSV, TSV, JSON lines (hyp, pred_text), a folder of Whisper's JSON",
    )
    references: str | None = Field(
        None,
        description="their references by id or audio path, where they are in another file: CSV, JSON lines",
    )
    language: str | None = Field(None, description="of all hypotheses; null: their column says it")
    normaliser: NormaliserName = Field(
        "auto",
        description="auto: english for en, mandarin for zh, else multilingual; spoken: multilingual, numbers in words",
    )

    @pydantic.field_validator("language")
    @classmethod
    def _code(cls, value: str | None) -> str | None:
        try:
            return any_language(value)
        except BadRecording as err:
            raise ValueError(err.detail) from None

    @pydantic.model_validator(mode="after")
    def _one_of_them(self) -> SetConfig:
        if sum(getattr(self, key) is not None for key in TEXTS_OF) > 1:
            raise ValueError("needs one of source, output and hypotheses, not several")
        for key in ("references", "language"):
            if getattr(self, key) and (self.source or self.output):
                raise Misfit(key, "is for hypotheses: source and output bring their own")
        return self

    @property
    def made_elsewhere(self) -> str | None:
        """Where the texts are, if nothing is transcribed."""
        return self.output or self.hypotheses


class SideConfig(Section):
    """One of several models side by side: what differs from the sections of the evaluation. A text is `model.name`.

    Texts that exist already are compared by sets of their own: {name: nemo, sets: {test: {hypotheses: nemo.json}}}.
    """

    name: str | None = Field(None, description="in the report and as a folder; null: the end of model.name")
    model: dict[str, Any] = Field(default_factory=dict, description="{name: whisper-base}")
    denoise: dict[str, Any] = Field(default_factory=dict, description="{max_steps: 4}")
    decode: dict[str, Any] = Field(default_factory=dict, description="{beams: 5}")
    segment: dict[str, Any] = Field(default_factory=dict, description="{max_seconds: 10}")
    compute: dict[str, Any] = Field(default_factory=dict, description="{canvases: 4}")
    sets: dict[str, dict[str, Any]] = Field(default_factory=dict, description="{test: {output: out/mine}}")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _a_model(cls, value: Any) -> Any:
        return {"model": {"name": value}} if isinstance(value, str) else value


class EvaluateConfig(Section):
    """All settings of `jobs.evaluate`."""

    name: str = Field("nightly", description="name of this evaluation, the same every night")
    run: str | None = Field(None, description="name of this run; the same name resumes it; null: today's date in UTC")
    sets: dict[str, SetConfig] = Field(default_factory=dict, description="the evaluated sets by name")
    output: OutputConfig
    storage: StorageConfig = StorageConfig()
    model: ModelConfig = ModelConfig()
    denoise: DenoiseConfig = DenoiseConfig()
    decode: DecodeConfig = DecodeConfig()
    segment: SegmentConfig = SegmentConfig()
    compute: ComputeConfig = ComputeConfig()
    plan: PlanConfig = PlanConfig()
    baseline: str | None = Field(
        None,
        description="evaluation to compare with: a NAME kept earlier, `previous` (the last one of this name), or the "
        "address of another output of jobs.evaluate; null: none",
    )
    keep_as: str | None = Field(
        None, description="keep this evaluation as a baseline: a NAME, or the address of a folder"
    )
    slices: list[str] = Field(
        default_factory=lambda: ["accent", "gender", "domain"],
        description="columns of the metadata; a rate of each of their values",
    )
    gate: GateConfig = GateConfig()
    mlflow: MlflowConfig = MlflowConfig()
    corrupt: CorruptConfig = CorruptConfig()
    sweep: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="{denoise.max_steps: [4, 8, 16]}: every combination, in one table and plot",
    )
    models: list[SideConfig] = Field(
        default_factory=list,
        description="[tiny, {model: {name: whisper-base}, decode: {beams: 5}}]: side by side in one report",
    )

    @pydantic.field_validator("name", "run", "keep_as")
    @classmethod
    def _safe(cls, value: str | None, info: pydantic.ValidationInfo) -> str | None:
        address = info.field_name == "keep_as" and value is not None and "/" in value
        if value is not None and not address and not SAFE.fullmatch(value):
            raise ValueError(_UNSAFE)
        return value

    @pydantic.field_validator("sets")
    @classmethod
    def _safe_sets(cls, value: dict[str, SetConfig]) -> dict[str, SetConfig]:
        for name in value:
            if not SAFE.fullmatch(name):
                raise ValueError(_UNSAFE)
        return value

    @pydantic.field_validator("sweep")
    @classmethod
    def _swept(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        allowed = {key for key, _ in keys(RunConfig) if key.split(".")[0] in ("model", "denoise", "decode", "segment")}
        for key, choices in value.items():
            if key not in allowed:
                raise ValueError(f"{key} is no setting of model, denoise, decode or segment")
            if not choices:
                raise ValueError(f"{key}: no values")
        return value

    @pydantic.model_validator(mode="after")
    def _sweeps_transcribe(self) -> EvaluateConfig:
        if self.sweep and (finished := [name for name, one in self.sets.items() if one.made_elsewhere]):
            raise Misfit("sweep", f"{', '.join(finished)} is a finished output, it cannot be swept")
        return self

    @pydantic.model_validator(mode="after")
    def _has_sets(self) -> EvaluateConfig:
        if not self.sets and not self.models:
            raise Misfit("sets", "required, but not given")
        for name, one in self.sets.items():
            if not self.models and not (one.source or one.made_elsewhere):
                raise Misfit(f"sets.{name}", "needs either a source to transcribe, an output, or hypotheses")
        return self

    @pydantic.model_validator(mode="after")
    def _keeps_what_is_sound(self) -> EvaluateConfig:
        if self.keep_as and (damage := self.corrupt.description()):
            raise Misfit("keep_as", f"{self.keep_as}: damaged on purpose (corrupt: {damage}), so it is no baseline")
        if self.keep_as == PREVIOUS:
            raise Misfit("keep_as", f"{PREVIOUS}: as a baseline this is the last evaluation; give it another NAME")
        if self.keep_as and "/" in self.keep_as and place(self.keep_as) == place(self.output.uri):
            text = "is the output itself, where it would delete every earlier evaluation; give a NAME or another folder"
            raise Misfit("keep_as", f"{self.keep_as}: {text}")
        return self

    @pydantic.model_validator(mode="after")
    def _stands_side_by_side(self) -> EvaluateConfig:
        if not self.models:
            return self
        for key in ("baseline", "keep_as", "sweep"):
            if getattr(self, key):
                raise Misfit(key, "is for one model: not together with models; set it to null or leave it out")
        if len(self.models) < 2:
            raise Misfit("models", "needs two or more; for one, set model.name")
        for name, one in self.sets.items():
            if one.made_elsewhere and not all(name in side.sets for side in self.models):
                key = f"sets.{name}.{'output' if one.output else 'hypotheses'}"
                raise Misfit(key, "these texts are of one model: give each of models sets of its own, or a source here")
        self.sides()
        return self

    def sides(self) -> dict[str, EvaluateConfig]:
        """The evaluation of each of `models`, by its name, in their order; each has an output of its own.

        Raises Misfit, which names the key of an entry that does not fit.
        """
        made: dict[str, EvaluateConfig] = {}
        common = self.model_dump(mode="json", exclude_unset=True) | {"models": []}  # a model has defaults of its own
        for number, one in enumerate(self.models):
            changes = one.model_dump(exclude={"name", "sets"}, exclude_unset=True)
            tree = common | {section: common.get(section, {}) | values for section, values in changes.items()}
            given = common.get("sets", {})
            tree["sets"] = given | {key: _with_texts(given.get(key, {}), values) for key, values in one.sets.items()}
            name = one.name or str(tree.get("model", {}).get("name", self.model.name)).rstrip("/").rpartition("/")[2]
            if not SAFE.fullmatch(name):
                raise Misfit(f"models.{number}.name", f"{name}: {_UNSAFE}")
            tree["output"] = common["output"] | {"uri": f"{self.output.uri.rstrip('/')}/models/{name}"}
            try:
                side = EvaluateConfig.model_validate(tree)
            except pydantic.ValidationError as err:
                key, _, text = mistakes(err, EvaluateConfig)[0].partition(": ")
                raise Misfit(f"models.{number}.{key}", text) from None
            if name in made:
                raise Misfit(f"models.{number}.name", f"{name} is there twice; give this one another name")
            made[name] = side
        return made


def _with_texts(one: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a set with those that a model changes: where its texts come from is one setting of three."""
    dropped = TEXTS_OF if any(key in changes for key in TEXTS_OF) else ()
    return {key: value for key, value in one.items() if key not in dropped} | dict(changes)
