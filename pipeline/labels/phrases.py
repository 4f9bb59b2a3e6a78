"""Phrases that models write where nobody says them, measured on our own outputs.

Whisper-base on 636 segments of people in five languages, each one word or a short phrase
(infra/tiny/human_speech.yaml): these texts came for two or more recordings of different words, and none of them was
ever right. So the list is small. `filters.more_phrases` adds what another model writes. Lines of subtitles are removed
before, by model/whisper/cleaning.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.text.spelling import letters

PHRASES = {
    "de": ("Oh", "Okay"),
    "es": ("¡Honio",),
    "fr": ("C'est ça",),
    "zh": ("是", "师傅", "呃", "撒", "啊"),
}


def is_phrase(text: str, language: str | None, more: Sequence[str]) -> bool:
    """Whether a whole text is a phrase of its language or one of `more`. text: `letters` only."""
    return text in map(letters, (*PHRASES.get(language or "", ()), *more))
