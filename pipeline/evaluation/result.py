"""Results of an evaluation as plain values: counts, rates with their coverage, comparisons, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Metric = Literal["WER", "CER"]
CHARACTER_LANGUAGES = ("zh",)  # written without spaces: judged by CER


def headline(language: str) -> Metric:
    """The metric that a language is judged by."""
    return "CER" if language in CHARACTER_LANGUAGES else "WER"


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of an alignment of a hypothesis with its reference, in units (words or characters)."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def units(self) -> int:
        """Number of units of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors per unit of the reference; None without units."""
        return self.errors / self.units if self.units else None

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


RECORDED = ("all", "set", "language", "slice")  # groups whose rates are kept; those of the others follow from the rows


def rate_of(stored: Mapping[str, Any]) -> float | None:
    """The rate of a group from the result that is kept as JSON; None where it has no reference."""
    return Counts(**stored["chars" if stored["metric"] == "CER" else "words"]).rate


@dataclass(frozen=True, slots=True)
class Rates:
    """One group of recordings: a set, a language, a speaker, a range of durations or of noise, a value of metadata.

    Dead-lettered and missing recordings count as deletions of their whole reference. Where the reference is not known,
    they count in the coverage only. Recordings with an empty reference are not in the counts; the words recognised in
    them are `phantom_words`.
    """

    group: Literal["all", "set", "language", "speaker", "duration", "snr", "slice"]
    key: str  # "test-clean", "en", "1089", "5-10 s", "en accent: scottish"
    metric: Metric
    words: Counts
    chars: Counts
    merged: Counts  # words, compounds merged
    recordings: int  # expected: all with a reference, and dead or missing ones whose reference is not known
    transcribed: int  # of `recordings`
    dead: int
    missing: int
    empty_references: int
    phantom_words: int
    seconds: float
    unread: int = 0  # dead and missing ones whose reference is not known
    bare: int = 0  # transcribed ones without a reference; in no other count
    damaged: int = 0  # of `transcribed`: some of them was not heard, which counts as deletions
    low: float | None = None  # 95 % interval of `counts.rate`: bootstrap over blocks
    high: float | None = None

    @property
    def counts(self) -> Counts:
        """Counts of the metric that the group is judged by."""
        return self.chars if self.metric == "CER" else self.words

    @property
    def coverage(self) -> float | None:
        """Share of the expected recordings that are transcribed, in [0, 1]; None where none is expected."""
        transcribed, expected = self.covered
        return transcribed / expected if expected else None

    @property
    def covered(self) -> tuple[int, int]:
        """How many recordings are transcribed, and how many are expected.

        Lost recordings may have had no reference. Where there are such ones, transcribed ones without a reference count
        too.
        """
        bare = self.bare if self.unread else 0
        return self.transcribed + bare, self.recordings + bare


@dataclass(frozen=True, slots=True)
class Comparison:
    """New minus baseline on the recordings that both have: differences of corpus-level rates (0.01 is one point)."""

    language: str
    metric: Metric
    recordings: int
    blocks: int  # speakers, or recordings whose speaker is unknown
    rate: float
    baseline_rate: float
    difference: float
    low: float  # each bound alone is right with probability 1 - alpha (95 %): paired bootstrap over blocks
    high: float
    p: float  # one-sided, of the hypothesis that the new one is no worse
    p_holm: float  # the same, corrected for the number of languages
    p_mapsswe: float | None  # two-sided, matched pairs; None where it is undefined
    detectable: float  # smallest difference shown with 80 % power, corrected for the number of languages
    regressed: bool  # p_holm below alpha, and `low` above 0
    left_out: int = 0  # recordings that only one evaluation has with a reference, or whose references differ
    p_better: float = 1.0  # one-sided, of the hypothesis that the new one is no better


@dataclass(frozen=True, slots=True)
class Difference:
    """One model minus another on the recordings that both have: differences of corpus-level rates (0.01: one point)."""

    model: str
    other: str
    language: str
    metric: Metric
    recordings: int
    left_out: int  # recordings that only one of both has with a reference
    blocks: int  # speakers, or recordings whose speaker is unknown
    rate: float
    other_rate: float
    difference: float
    low: float  # 95 % interval: paired bootstrap over blocks
    high: float
    p: float  # two-sided
    p_holm: float  # the same, corrected for the number of all differences of the report


@dataclass(frozen=True, slots=True)
class TextChanges:
    """How the texts of one evaluation or model differ from those of another."""

    new: str
    old: str
    recordings: int  # that both have with the same reference
    worse: int  # more errors in the new one
    better: int
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]  # new and old, as worst.utterance shows them


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Several models on the same sets."""

    name: str
    run: str
    evaluations: Mapping[str, Evaluation]  # by the name of the model, in order
    differences: Sequence[Difference]  # of each model and every one before it
    changes: Sequence[TextChanges] = ()  # the same

    @property
    def passed(self) -> bool:
        """Whether the gate is open for every model."""
        return all(one.verdict.passed for one in self.evaluations.values())


@dataclass(frozen=True, slots=True)
class Point:
    """A rate of an earlier evaluation or of this one, for the plot over time."""

    evaluated_at: datetime
    evaluation: str
    model: str
    language: str
    metric: Metric
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How long transcribing took. The figures are those of the last run of each set that had something to do."""

    audio_seconds: float = 0.0
    seconds: float = 0.0  # of the clock, from the first actor to the last commit; 0: nothing was transcribed
    replica_seconds: float | None = 0.0  # of processors, by the replicas with their start; None: Ray runs elsewhere

    @property
    def rtfx(self) -> float | None:
        """Seconds of audio per second of the clock."""
        return self.audio_seconds / self.seconds if self.seconds else None

    @property
    def processor_rtfx(self) -> float | None:
        """Seconds of audio per second of a processor in the replicas."""
        return self.audio_seconds / self.replica_seconds if self.replica_seconds else None

    def __add__(self, other: Speed) -> Speed:
        known = None not in (self.replica_seconds, other.replica_seconds)
        return Speed(
            self.audio_seconds + other.audio_seconds,
            self.seconds + other.seconds,
            (self.replica_seconds or 0.0) + (other.replica_seconds or 0.0) if known else None,
        )


@dataclass(frozen=True, slots=True)
class WordConfidence:
    """How good the confidence of recognised words is (characters where the language is judged by them)."""

    language: str  # or "all"
    words: int
    accuracy: float  # share of them that are right, in [0, 1]
    confidence: float  # mean, in [0, 1]
    ece: float
    auroc: float | None  # None: all are right, or all are wrong


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One combination of settings of a sweep."""

    settings: Mapping[str, Any]  # {"denoise.max_steps": 8}
    rates: Mapping[str, Rates]  # by language
    overall: Rates
    rtfx: float | None  # seconds of audio per second of the clock, over these sets; None where nothing was transcribed
    steps: float | None  # denoising steps, mean


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the gate, for the JUnit file, which shows all of them."""

    gate: Literal["regression", "ceiling", "coverage", "gate"]
    subject: str  # language, or set and language
    failure: str | None  # the reason, as in Verdict.failures; None: passed


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the gate is open: the reasons against it, and warnings."""

    failures: Sequence[str] = ()
    warnings: Sequence[str] = ()
    checks: Sequence[Check] = ()  # all of them, also those that passed

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True, slots=True)
class Differing:
    """A setting, or a fact about model, code or machine, that was another one for the baseline."""

    name: str
    here: str
    there: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that the report, the JUnit file and the log show. The rows are a table of schemas.EVALUATED."""

    evaluation: str
    evaluated_at: datetime
    about: Mapping[str, str]  # model, revision, code, hardware, normalisers ...: name -> text
    rates: Sequence[Rates]
    comparisons: Sequence[Comparison] = ()
    baseline: str | None = None  # the id of that evaluation
    verdict: Verdict = field(default_factory=Verdict)
    history: Sequence[Point] = ()
    sweep: Sequence[SweepPoint] = ()
    speed: Speed = Speed()
    words: Sequence[WordConfidence] = ()  # of all languages, then of each
    settings: Mapping[str, Any] = field(default_factory=dict)  # by full key
    differing: Sequence[Differing] = ()  # from the baseline
