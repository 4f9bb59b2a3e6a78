"""What is wrong with one segment by itself, whatever its confidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from pipeline.labels.language import LanguageCheck
from pipeline.labels.phrases import is_phrase
from pipeline.labels.settings import DEFAULT, FiltersConfig
from pipeline.text.spelling import letters

Row = Mapping[str, Any]
Words = Sequence[str]
UNIQUE_FROM = 5  # words: shorter texts are not asked for different ones
LONGEST_PHRASE = 8  # words that may stand in a row again and again


class Filters:
    """Says why a segment is dropped, None where it passes."""

    def __init__(self, config: FiltersConfig) -> None:
        self._config = config
        least = config.min_language_probability
        self._language = None if least is None else LanguageCheck(least)
        self._checks: tuple[tuple[str, Callable[[Row, Words], bool]], ...] = (
            ("no_text", lambda _, words: not words),
            ("damaged", lambda row, _: config.damaged and row["problem"] is not None),
            ("duration", self._duration),
            ("overflow", lambda row, _: config.overflow and bool(row["overflow"])),
            ("repetition", self._repetition),
            ("character_rate", self._character_rate),
            ("unique_words", self._unique_words),
            ("long_word", self._long_word),
            ("phrase", lambda row, words: config.phrases and self._phrase(row, words)),
            ("language", self._other_language),
            ("second_model", self._second_model),
        )

    def reason(self, row: Row, words: Words) -> str | None:
        """The first of REASONS that holds. row: of schemas.TRANSCRIPT. words: its `plain_words`."""
        return next((reason for reason, is_wrong in self._checks if is_wrong(row, words)), None)

    def _duration(self, row: Row, _: Words) -> bool:
        seconds = (row["end_ms"] - row["start_ms"]) / 1000
        return not self._config.min_seconds <= seconds <= self._config.max_seconds

    def _repetition(self, _: Row, words: Words) -> bool:
        most = self._config.max_repetitions
        return most is not None and repetitions(words) > most

    def _character_rate(self, row: Row, _: Words) -> bool:
        limits, rate = self._config.characters_per_second, row["chars_per_second"]
        if limits is None or rate is None:
            return False
        low, high = limits.get(row["language"] or "", limits.get(DEFAULT, (0.0, float("inf"))))
        return not low <= rate <= high

    def _unique_words(self, _: Row, words: Words) -> bool:
        least = self._config.min_unique_words
        return least is not None and len(words) >= UNIQUE_FROM and len(set(words)) < least * len(words)

    def _long_word(self, _: Row, words: Words) -> bool:
        most = self._config.max_word_characters
        return most is not None and max(map(len, words)) > most

    def _phrase(self, row: Row, words: Words) -> bool:
        return is_phrase("".join(words), row["language"], self._config.more_phrases)

    def _other_language(self, row: Row, _: Words) -> bool:
        return self._language is not None and self._language.is_other(row["text"], row["language"])

    def _second_model(self, row: Row, _: Words) -> bool:
        least = self._config.min_second_agreement
        agreement = (row["signals"] or {}).get("second_agreement")
        return least is not None and agreement is not None and agreement < least


def plain_words(row: Row) -> list[str]:
    """The words of a segment in small letters, without punctuation; each Han character is one."""
    given = [word["text"] for word in row["words"] or ()] or (row["text"] or "").split()
    return list(filter(None, map(letters, given)))


def repetitions(words: Words) -> int:
    """How often a phrase of up to LONGEST_PHRASE words stands in a row, at most."""
    most = 1 if words else 0
    for length in range(1, LONGEST_PHRASE + 1):
        is_again = [words[at] == words[at - length] for at in range(length, len(words))]
        runs = [sum(1 for _ in group) for same, group in groupby(is_again) if same]
        most = max([most, *(1 + run // length for run in runs)])
    return most
