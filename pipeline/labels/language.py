"""Whether a text is of another language than its row says: lingua, which needs no model of ours."""

from __future__ import annotations

from lingua import IsoCode639_1, Language, LanguageDetector, LanguageDetectorBuilder

from pipeline.config import LANGUAGES
from pipeline.model.denoise.repeats import is_han

LETTERS = 20  # of a text that can be judged
OF_HAN = 3  # letters that a Han character counts as


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
        if sum(OF_HAN if is_han(letter) else letter.isalpha() for letter in text) < LETTERS:
            return False
        return self._detector.compute_language_confidence(text, self._language[language]) < self._least
