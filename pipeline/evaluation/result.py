"""What an evaluation finds, as plain values: counts, rates with their coverage, comparisons, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Metric = Literal["WER", "CER"]
CHARACTER_LANGUAGES = ("zh",)  # written without spaces: their headline is CER


def headline(language: str) -> Metric:
    """The metric that a language is judged by."""
    return "CER" if language in CHARACTER_LANGUAGES else "WER"


@dataclass(frozen=True, slots=True)
class Counts:
    """An alignment of a hypothesis with its reference, in units (words or characters)."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def units(self) -> int:
        """Of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors per unit of the reference; None where there is none."""
        return self.errors / self.units if self.units else None

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """One group of recordings: all of a set, a language, a speaker, a bucket of durations or of noise.

    Dead-lettered and missing recordings count as deletions of their whole reference, and only in the coverage where
    nobody could read it; recordings with an empty reference are left out of the counts, and what was heard in them is
    `phantom_words`.
    """

    group: Literal["all", "set", "language", "speaker", "duration", "snr"]
    key: str  # "test-clean", "en", "1089", "5-10 s"
    metric: Metric
    words: Counts
    chars: Counts
    merged: Counts  # words, compounds merged
    recordings: int  # expected: those with a reference, and dead and missing ones of which it is not known
    transcribed: int  # of them
    dead: int
    missing: int
    empty_references: int
    phantom_words: int
    seconds: float
    unread: int = 0  # dead and missing ones of which no reference is known
    bare: int = 0  # transcribed, without any reference; in no other count
    low: float | None = None  # 95 % interval of the headline rate, blockwise bootstrap
    high: float | None = None

    @property
    def counts(self) -> Counts:
        """Of the headline metric."""
        return self.chars if self.metric == "CER" else self.words

    @property
    def coverage(self) -> float | None:
        """Recordings transcribed of those expected; of all, where some that are lost may have had no reference."""
        heard, expected = self.covered
        return heard / expected if expected else None

    @property
    def covered(self) -> tuple[int, int]:
        """How many were transcribed, of how many."""
        bare = self.bare if self.unread else 0
        return self.transcribed + bare, self.recordings + bare


@dataclass(frozen=True, slots=True)
class Comparison:
    """New minus baseline on the recordings both have, as differences of corpus-level rates (0.01 is one point)."""

    language: str
    metric: Metric
    recordings: int
    blocks: int  # speakers, or recordings where they are unknown
    rate: float
    baseline_rate: float
    difference: float
    low: float  # each bound holds with 1 - alpha by itself (95 %): paired blockwise bootstrap
    high: float
    p: float  # one-sided: the new one is no worse
    p_holm: float  # the same, corrected for the number of languages
    p_mapsswe: float | None  # two-sided, matched pairs; None where it is undefined
    detectable: float  # smallest difference seen with 80 % power, corrected for the number of languages
    regressed: bool  # p_holm below alpha, and `low` above 0
    left_out: int = 0  # recordings with a reference in only one evaluation, or with another reference


@dataclass(frozen=True, slots=True)
class Point:
    """A rate of an earlier or of this evaluation, for the plot over time."""

    evaluated_at: datetime
    evaluation: str
    model: str
    language: str
    metric: Metric
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One combination of settings of a sweep."""

    settings: Mapping[str, Any]  # {"denoise.max_steps": 8}
    rates: Mapping[str, Rates]  # by language
    overall: Rates
    rtfx: float | None  # of the engine's pipeline over these sets
    steps: float | None  # denoising steps, mean


@dataclass(frozen=True, slots=True)
class Check:
    """One thing the gate has looked at, for those who show them all (JUnit)."""

    gate: Literal["regression", "ceiling", "coverage", "gate"]
    subject: str  # language, or set and language
    failure: str | None  # the reason as it stands in Verdict.failures; None: it holds


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the gate is open: every reason it is not, and what came close."""

    failures: Sequence[str] = ()
    warnings: Sequence[str] = ()
    checks: Sequence[Check] = ()  # all that were tried, also those that hold

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that report, JUnit file and log show. Row by row it is the table schemas.EVALUATED."""

    evaluation: str
    evaluated_at: datetime
    about: Mapping[str, str]  # model, revision, code, hardware, normalisers ...: name -> text
    rates: Sequence[Rates]
    comparisons: Sequence[Comparison] = ()
    baseline: str | None = None  # its evaluation id
    verdict: Verdict = field(default_factory=Verdict)
    history: Sequence[Point] = ()
    sweep: Sequence[SweepPoint] = ()
