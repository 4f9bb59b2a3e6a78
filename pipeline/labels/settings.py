"""The settings of `jobs.select_labels`: the policy that decides what is kept."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from pipeline.calibration.settings import CalibrateSet
from pipeline.config import Misfit, OutputConfig, Section, StorageConfig, place
from pipeline.evaluation.settings import NormaliserName, Rate

FUNNEL = "funnel.json"  # of an output: what was decided; it is there when all labels are
DEFAULT = "default"  # stands for every language that is not named

Share = Annotated[float, Field(ge=0, le=1)]
Speed = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]]


class PolicyConfig(Section):
    """How sure a label must be: a target for the error rate, or thresholds of the column confidence."""

    target_wer: dict[str, Rate] = Field(
        default_factory=dict,
        description="{default: 8%, zh: 12%}: highest error rate by language (zh: of characters); needs calibration",
    )
    min_confidence: dict[str, Share] = Field(
        default_factory=dict, description="{default: 0.9}: or thresholds by language"
    )
    level: float = Field(0.95, ge=0.5, le=0.999, description="of the bound of target_wer, and of intervals")

    @pydantic.model_validator(mode="after")
    def _one_of_both(self) -> PolicyConfig:
        if self.target_wer and self.min_confidence:
            raise Misfit("min_confidence", "not together with target_wer, which finds the thresholds itself")
        return self


class FiltersConfig(Section):
    """What is dropped whatever its confidence. null: not this filter."""

    RANGES = (("min_seconds", "max_seconds"),)

    damaged: bool = Field(True, description="drop segments of recordings of which some was not heard (problem)")
    overflow: bool = Field(True, description="drop texts that had no room on the canvas")
    min_seconds: float = Field(0.1, ge=0, le=3_600, description="shortest segment")
    max_seconds: float = Field(40.0, gt=0, le=3_600, description="longest segment")
    characters_per_second: dict[str, Speed] | None = Field(
        {DEFAULT: (1.0, 25.0), "zh": (0.5, 12.0)}, description="slowest and fastest text by language, no white space"
    )
    max_repetitions: Annotated[int, Field(ge=1)] | None = Field(
        3, description="so often may a phrase of up to 8 words stand in a row"
    )
    min_unique_words: Share | None = Field(0.4, description="share of different words, in texts of 5 or more")
    max_word_characters: Annotated[int, Field(ge=1)] | None = Field(30, description="of one word")
    phrases: bool = Field(True, description="drop texts that are hallucinations: those of labels/phrases.py")
    more_phrases: list[str] = Field(default_factory=list, description="and these: what your model writes on its own")
    min_language_probability: Share | None = Field(
        0.05, description="of the language of the row, by lingua, in texts of 20 letters or more (a Han character: 3)"
    )
    min_second_agreement: Share | None = Field(None, description="signals.second_agreement; null there is kept")
    duplicate_audio: bool = Field(True, description="drop recordings whose audio an earlier one has")
    audio_hash_column: str | None = Field(
        None, description="key of the metadata with a hash of the audio; null: the place, and the ETag in a store"
    )
    text_similarity: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.9, description="drop texts of 8 or more words so similar to a kept one (Jaccard of their 3-grams, MinHash)"
    )

    @pydantic.model_validator(mode="after")
    def _slowest_first(self) -> FiltersConfig:
        for language, (low, high) in (self.characters_per_second or {}).items():
            if low >= high:
                raise Misfit("characters_per_second", f"{language}: {low:g} is not below {high:g}")
        return self


class CapsConfig(Section):
    """How much of one speaker or source is kept, in the order of the table. null: all."""

    speaker_hours: Annotated[float, Field(gt=0)] | None = Field(None, description="of one speaker, where known")
    source_hours: Annotated[float, Field(gt=0)] | None = Field(None, description="of one source: source_column")


class MergeConfig(Section):
    """Neighbouring kept segments of one recording become one label."""

    RANGES = (("min_seconds", "max_seconds"),)

    min_seconds: float = Field(0.0, ge=0, le=3_600, description="merge until a label has so much; 0: never")
    max_seconds: float = Field(30.0, gt=0, le=3_600, description="of a merged label")
    max_gap_ms: int = Field(1_000, ge=0, le=60_000, description="silence between two neighbours, at most")


class SplitConfig(Section):
    """Which labels are for training. A group is in one split, whatever else is in the archive."""

    by: Literal["speaker", "recording"] = Field(
        "speaker", description="speaker, or the recording where it is unknown; recording"
    )
    dev: float = Field(0.02, ge=0, le=0.5, description="share of the groups")
    test: float = Field(0.02, ge=0, le=0.5, description="share of the groups")
    seed: int = Field(0, ge=0, lt=2**31, description="another one gives other splits")


class AuditConfig(Section):
    """A sample of the kept labels for people who listen."""

    sample: int = Field(
        100, ge=0, le=10_000, description="labels in audit.csv and audit.html; at least two of each stratum"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="another one draws other labels")
    audio: bool = Field(True, description="cut their audio from the source, for the players of audit.html")
    verdicts: str | None = Field(
        None, description="verdicts.csv, saved by audit.html: only judge them, select nothing; null: select"
    )


class LabelsConfig(Section):
    """All settings of `jobs.select_labels`."""

    transcripts: str | None = Field(None, description="an output of jobs.transcribe; it is only read")
    calibration: dict[str, CalibrateSet] = Field(
        default_factory=dict, description="transcripts with references by the same model, for target_wer"
    )
    speaker_column: str | None = Field(None, description="key of the metadata; null: by its usual names")
    source_column: str | None = Field(None, description="key of the metadata that says where a recording is from")
    normaliser: NormaliserName = Field("auto", description="of references, as that of a set of jobs.evaluate")
    policy: PolicyConfig = PolicyConfig()
    filters: FiltersConfig = FiltersConfig()
    caps: CapsConfig = CapsConfig()
    merge: MergeConfig = MergeConfig()
    split: SplitConfig = SplitConfig()
    audit: AuditConfig = AuditConfig()
    output: OutputConfig = Field(description="where labels/, funnel.json, report.html and the audit go")
    storage: StorageConfig = StorageConfig()

    @pydantic.model_validator(mode="after")
    def _complete(self) -> LabelsConfig:
        if self.audit.verdicts is not None:
            return self
        if not self.transcripts:
            raise Misfit("transcripts", "needs an output of jobs.transcribe")
        if place(self.transcripts) == place(self.output.uri):
            raise Misfit("output.uri", "labels need a place of their own; the transcripts are there")
        if self.policy.target_wer and not self.calibration:
            raise Misfit("calibration", "policy.target_wer needs transcripts with references: calibration.NAME.output")
        if self.caps.source_hours and not self.source_column:
            raise Misfit("source_column", "caps.source_hours needs the key of the metadata that names the source")
        return self
