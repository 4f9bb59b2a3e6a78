"""Counts of a selection: segments and hours by language and reason, kept words and speakers, errors where known."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.evaluation.settings import UNKNOWN
from pipeline.labels.choice import MS_PER_HOUR
from pipeline.labels.risk import Risk, observed_risk
from pipeline.labels.splits import stable_hash

KEPT = "kept"


@dataclass(slots=True)
class Tally:
    """Sums over the segments of an archive. Memory: two small entries for each kept speaker and language."""

    segments: Counter[tuple[str, str]] = field(default_factory=Counter)  # by language and reason, or KEPT
    milliseconds: Counter[tuple[str, str]] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)  # recognised and kept, by language
    wrong: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # expected errors of them
    uncalibrated: set[str] = field(default_factory=set)  # languages with kept labels that expect nothing
    splits: Counter[str] = field(default_factory=Counter)  # milliseconds
    labels: int = 0
    # by language: kept speakers, or recordings whose speaker is unknown
    blocks: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    judged: dict[str, dict[bytes, list[int]]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, label: Mapping[str, Any], group: list[dict[str, Any]]) -> None:
        """Count one row of schemas.LABELS and its segments, which have `errors` and `units` where there is a reference.

        Both of the reference; None without one.
        """
        language = label["language"] or UNKNOWN
        block = stable_hash(label["speaker"] is None, label["speaker"] or label["recording_id"])
        for row in group:
            key = (language, row["reason"] or KEPT)
            self.segments[key] += 1
            self.milliseconds[key] += row["end_ms"] - row["start_ms"]
            if label["kept"]:
                self._expect(language, row)
            if label["kept"] and row["units"] is not None:
                sums = self.judged[language].setdefault(block, [0, 0])
                sums[0] += row["errors"]
                sums[1] += row["units"]
        if label["kept"]:
            self.labels += 1
            self.splits[label["split"]] += label["end_ms"] - label["start_ms"]
            self.blocks[language].add(block)

    def _expect(self, language: str, row: Mapping[str, Any]) -> None:
        self.words[language] += (words := len(row["words"] or ()))
        if row["expected_wer"] is None:
            self.uncalibrated.add(language)
        else:
            self.wrong[language] += row["expected_wer"] * words

    def expected(self, languages: Collection[str]) -> float | None:
        """The expected error rate of the kept words of some languages. None where their confidences are raw."""
        words = sum(self.words[name] for name in languages)
        if not words or not self.uncalibrated.isdisjoint(languages):
            return None
        return float(sum(self.wrong[name] for name in languages)) / words

    def speakers(self, languages: Collection[str]) -> int:
        """How many different ones are kept of these languages."""
        return len(set().union(*(self.blocks.get(name, ()) for name in languages)))

    @property
    def languages(self) -> list[str]:
        """All languages, the one with most hours first."""
        hours: Counter[str] = Counter()
        for (language, _), length in self.milliseconds.items():
            hours[language] += length
        return [language for language, _ in hours.most_common()]

    def hours(self, language: str | None = None, reason: str | None = None) -> float:
        """Of a language and a reason, KEPT among them; None: of all."""
        return _sum(self.milliseconds, language, reason) / MS_PER_HOUR

    def count(self, language: str | None = None, reason: str | None = None) -> int:
        """Segments, as `hours`."""
        return _sum(self.segments, language, reason)

    def achieved(self, level: float, language: str | None = None) -> Risk | None:
        """The error rate of the kept segments with references. None where fewer than two speakers have them."""
        chosen = [self.judged[language]] if language in self.judged else [] if language else self.judged.values()
        sums = [(block, *both) for of_language in chosen for block, both in of_language.items()]
        if not sums:
            return None
        _, blocks = np.unique(np.array([block for block, _, _ in sums], object), return_inverse=True)
        errors, units = (np.array([one[at] for one in sums], float) for at in (1, 2))
        return observed_risk(errors, units, blocks, level=level)


def _sum(counted: Mapping[tuple[str, str], int], language: str | None, reason: str | None) -> int:
    return sum(number for (own, why), number in counted.items() if language in (None, own) and reason in (None, why))
