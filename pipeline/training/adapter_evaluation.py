"""Error rates of the model in training, with the production engine, and whether it listens at all (shuffled audio)."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.config import DenoiseConfig
from pipeline.evaluation.normalise import normaliser
from pipeline.evaluation.result import Counts, headline
from pipeline.evaluation.score import char_counts, word_counts
from pipeline.model.denoise.engine import Engine
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment
from pipeline.training.examples import Examples
from pipeline.training.parallel import Group


@dataclass(frozen=True, slots=True)
class SetRates:
    """Counts of one set, words or for Mandarin characters: in order, with the audio shuffled, and by language."""

    counts: Counts
    shuffled: Counts
    languages: dict[str, Counts]


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
        """The same with each text scored against what was heard in another recording."""
        return _rate([one.shuffled for one in self.sets.values()])

    def grounded(self, margin: float) -> bool:
        """Whether the texts follow from the audio: without it, the error rate is higher by at least `margin`."""
        return self.shuffled - self.rate >= margin


def evaluate(
    model: AsrModel, sets: dict[str, Examples], denoise: DenoiseConfig, *, slots: int, group: Group
) -> Evaluated:
    """Every worker transcribes its share, all get all counts. The model must be in one dtype and in inference mode."""
    engine = Engine(model, denoise, slots=slots)
    try:
        heard: dict[str, dict[int, str]] = {}
        for name, examples in sets.items():
            mine = range(group.rank, len(examples), group.world)
            segments = [Segment(examples.keys[i], examples.languages[i], examples.pcm(i)) for i in mine]
            results = engine.transcribe(segments)
            heard[name] = {i: result.text or "" for i, result in zip(mine, results, strict=True)}
    finally:
        engine.close()
    merged: dict[str, dict[int, str]] = {name: {} for name in sets}
    for share in group.gather(heard):
        for name, texts in share.items():
            merged[name] |= texts
    return Evaluated({name: score(examples.texts, merged[name], examples.languages) for name, examples in sets.items()})


def score(texts: list[str], heard: dict[int, str], languages: list[str | None]) -> SetRates:
    """Counts of one set. Shuffled: each text against what was heard in the language's next recording of another text.

    A text that a language has no other one of is left out of `shuffled`.
    """
    by_language: dict[str, Counts] = {}
    shuffled = Counts()
    for language in sorted({name or "" for name in languages}):
        rows = [row for row, name in enumerate(languages) if (name or "") == language]
        counts = Counts()
        for place, row in enumerate(rows):
            counts += _counts(texts[row], heard[row], language)
            following = (rows[(place + step) % len(rows)] for step in range(1, len(rows)))
            other = next((moved for moved in following if texts[moved] != texts[row]), None)
            if other is not None:
                shuffled += _counts(texts[row], heard[other], language)
        by_language[language or "unknown"] = counts
    return SetRates(sum(by_language.values(), Counts()), shuffled, by_language)


def _counts(reference: str, hypothesis: str, language: str) -> Counts:
    normal = normaliser("auto", language)
    count = char_counts if headline(language) == "CER" else word_counts
    return count(normal(reference), normal(hypothesis))


def _rate(counts: list[Counts]) -> float:
    return sum(counts, Counts()).rate or 0.0
