"""What published Whisper figures were computed with. For comparison with those, never for a gate.

Its basic normaliser deletes every combining mark: Hindi vowel signs go, and words break where they stood (arXiv
2409.02449). Its English one is in normalise_english.py.
"""

from __future__ import annotations

from collections.abc import Callable

from whisper_normalization import BasicTextNormalizer

from pipeline.evaluation.normalise_english import published_english
from pipeline.evaluation.result import CHARACTER_LANGUAGES

_BASIC = BasicTextNormalizer()


def whisper(language: str) -> Callable[[str], str]:
    """The published normaliser of a language.

    For Mandarin, figures are published on single characters with spaces between them; here the spaces go, and the CER
    of that is the same number.
    """
    if language == "en":
        return published_english
    return _basic_characters if language in CHARACTER_LANGUAGES else _basic


def _basic(text: str) -> str:
    return " ".join(_BASIC(text).split())


def _basic_characters(text: str) -> str:
    return "".join(_BASIC(text).split())
