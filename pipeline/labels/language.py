"""Whether a text is of another language than its row says: lingua, which needs no model of ours."""

from __future__ import annotations

from lingua import IsoCode639_1, Language, LanguageDetector, LanguageDetectorBuilder

from pipeline.config import LANGUAGES
from pipeline.evaluation.result import CHARACTER_LANGUAGES

LETTERS, CHARACTERS = 20, 6  # of a text that can be judged; Han characters say more each


class LanguageCheck:
    """Compares texts with the language of their rows. lingua weighs the languages of our models against each other."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._language: dict[str, Language] = {
            code: Language.from_iso_code_639_1(getattr(IsoCode639_1, code.upper())) for code in LANGUAGES
        }
        self._detector: LanguageDetector = LanguageDetectorBuilder.from_languages(*self._language.values()).build()

    def is_other(self, text: str, language: str | None) -> bool:
        """Whether the text is probably of another language. False where the row has none, or the text is short."""
        if language not in self._language:
            return False
        if sum(map(str.isalpha, text)) < (CHARACTERS if language in CHARACTER_LANGUAGES else LETTERS):
            return False
        return self._detector.compute_language_confidence(text, self._language[language]) < self._least
