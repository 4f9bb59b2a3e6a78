"""Error rates of the model in training, with the production engine, and whether it listens at all (shuffled audio)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pipeline.config import DenoiseConfig
from pipeline.evaluation.result import Counts, headline
from pipeline.evaluation.score import char_counts, word_counts
from pipeline.model.denoise.engine import Engine
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment
from pipeline.text.normalise import normaliser
from pipeline.training.parallel import Group

SAMPLES = 2  # of each language in each set
Normal = Callable[[str, str], str]  # (text, language or "") -> what is compared


class Recordings(Protocol):
    """Recordings with their texts: `examples.Examples`, or a corpus of the factory of the embedded model."""

    texts: list[str]
    languages: list[str | None]
    keys: list[str]

    def __len__(self) -> int:
        """How many they are."""

    def pcm(self, row: int) -> bytes:
        """One recording: mono, 16 kHz, int16 little-endian, not longer than the model's window."""


class Answer(NamedTuple):
    """What the model made of one recording, and how many denoising steps it took."""

    text: str
    steps: int


class Sample(NamedTuple):
    """A text as the model wrote it beside its reference, for a person to read."""

    language: str
    reference: str
    text: str


@dataclass(frozen=True, slots=True)
class SetRates:
    """Counts of one set, words or for Mandarin characters: in order, with the audio shuffled, and by language.

    samples: the first texts of each language.
    """

    counts: Counts
    shuffled: Counts
    languages: dict[str, Counts]
    steps_mean: float = 0.0
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluated:
    """All sets of one evaluation."""

    sets: dict[str, SetRates] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Errors per unit of all sets together."""
        return _rate([one.counts for one in self.sets.values()])

    @property
    def shuffled(self) -> float:
        """The same with each text scored against the answer to another recording."""
        return _rate([one.shuffled for one in self.sets.values()])

    def grounded(self, margin: float) -> bool:
        """Whether the texts follow from the audio: without it, the error rate is higher by at least `margin`."""
        return self.shuffled - self.rate >= margin

    def line(self, margin: float) -> dict[str, Any]:
        """The rates as the log has them. margin: of `grounded`."""
        return {
            "rate": round(self.rate, 4),
            "shuffled": round(self.shuffled, 4),
            "grounded": self.grounded(margin),
            "sets": {
                name: {
                    "rate": round(one.counts.rate or 0.0, 4),
                    "errors": one.counts.errors,
                    "units": one.counts.units,
                    "languages": {code: round(c.rate or 0.0, 4) for code, c in one.languages.items()},
                    "texts": [list(sample) for sample in one.samples],
                }
                for name, one in self.sets.items()
            },
        }


def normalised(text: str, language: str) -> str:
    """A text as jobs.evaluate compares it."""
    return normaliser("auto", language)(text)


def evaluate(
    model: AsrModel,
    sets: Mapping[str, Recordings],
    denoise: DenoiseConfig,
    *,
    slots: int,
    group: Group,
    normal: Normal = normalised,
) -> Evaluated:
    """Transcribe and score all sets. Every worker transcribes its share, all get all counts.

    Args:
        model: in one dtype and in inference mode.
        sets: recordings by the name of their set.
        denoise: settings of the engine.
        slots: canvases that are denoised together.
        group: this worker among the others.
        normal: what makes texts comparable.
    """
    engine = Engine(model, denoise, slots=slots)
    try:
        mine: dict[str, dict[int, Answer]] = {}
        for name, recordings in sets.items():
            rows = range(group.rank, len(recordings), group.world)
            segments = [Segment(recordings.keys[i], recordings.languages[i], recordings.pcm(i)) for i in rows]
            results = engine.transcribe(segments)
            mine[name] = {
                i: Answer(result.text or "", result.steps or 0) for i, result in zip(rows, results, strict=True)
            }
    finally:
        engine.close()
    answers: dict[str, dict[int, Answer]] = {name: {} for name in sets}
    for share in group.gather(mine):
        for name, some in share.items():
            answers[name] |= some
    return Evaluated(
        {name: score(one.texts, answers[name], one.languages, normal=normal) for name, one in sets.items()}
    )


def score(
    texts: Sequence[str],
    answers: Mapping[int, Answer],
    languages: Sequence[str | None],
    *,
    normal: Normal = normalised,
) -> SetRates:
    """Count the errors of one set.

    Shuffled: each text is compared with the answer to the language's next recording of another text. A text that is
    the only one of its language is left out of `shuffled`.
    """
    by_language: dict[str, Counts] = {}
    shuffled = Counts()
    samples: list[Sample] = []
    for language in sorted({name or "" for name in languages}):
        rows = [row for row, name in enumerate(languages) if (name or "") == language]
        counts = Counts()
        for place, row in enumerate(rows):
            counts += _counts(texts[row], answers[row].text, language, normal)
            following = (rows[(place + step) % len(rows)] for step in range(1, len(rows)))
            other = next((moved for moved in following if texts[moved] != texts[row]), None)
            if other is not None:
                shuffled += _counts(texts[row], answers[other].text, language, normal)
        by_language[language or "unknown"] = counts
        samples += [Sample(language or "unknown", texts[row], answers[row].text) for row in rows[:SAMPLES]]
    steps = sum(answer.steps for answer in answers.values()) / max(1, len(answers))
    return SetRates(sum(by_language.values(), Counts()), shuffled, by_language, steps, tuple(samples))


def _counts(reference: str, hypothesis: str, language: str, normal: Normal) -> Counts:
    count = char_counts if headline(language) == "CER" else word_counts
    return count(normal(reference, language), normal(hypothesis, language))


def _rate(counts: list[Counts]) -> float:
    return sum(counts, Counts()).rate or 0.0
