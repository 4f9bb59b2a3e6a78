"""The normalisers of published Whisper figures. For comparison with those figures, never for a gate.

The basic one deletes every combining mark. So Hindi words lose their vowel signs and break apart there (arXiv
2409.02449). The English one is in normalise_english.py.
"""

from __future__ import annotations

from collections.abc import Callable

from whisper_normalization import BasicTextNormalizer

from pipeline.text.normalise_english import published_english

_BASIC = BasicTextNormalizer()


def whisper(language: str) -> Callable[[str], str]:
    """The published normaliser of a language.

    Mandarin figures are published on single characters with spaces between them. Here the spaces are dropped; the CER
    is the same number.
    """
    if language == "en":
        return published_english
    return _basic_characters if language == "zh" else _basic


def _basic(text: str) -> str:
    return " ".join(_BASIC(text).split())


def _basic_characters(text: str) -> str:
    return "".join(_BASIC(text).split())
