"""Normalisers: what a transcript is compared as. Each has a name, a version, and the library that it rests on.

| name | for | what it does |
| --- | --- | --- |
| english | en | as Whisper's: no brackets and fillers, contractions expanded, numbers in digits, US spelling |
| multilingual | de, fr, es, hi, ... | lower case, NFC, no punctuation and symbols; every letter, mark and digit stays |
| mandarin | zh | NFKC, simplified, numerals in digits, no spaces, no punctuation |
| spoken | any | as multilingual, and whole numbers in words: "21" is "twenty one" |
| whisper-compatible | any | what published Whisper figures use, to compare with those; breaks Hindi words apart |

The rules are in the files normalise_*.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version

from pipeline.config import ConfigError
from pipeline.text.normalise_english import english
from pipeline.text.normalise_mandarin import mandarin
from pipeline.text.normalise_multilingual import multilingual
from pipeline.text.normalise_spoken import spoken
from pipeline.text.normalise_whisper import whisper

Step = Callable[[str], str]

NAMES = ("auto", "english", "multilingual", "mandarin", "spoken", "whisper-compatible")
VERSIONS = dict.fromkeys(NAMES[1:], "1")  # raised with the rules
LIBRARIES = {
    "english": "whisper-normalization",
    "mandarin": "opencc",
    "spoken": "unicode-rbnf",
    "whisper-compatible": "whisper-normalization",
}
PASSES = 20  # at most; texts settle after two or three
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character of UTF-16: no encoder takes it


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Text in, comparable text out: words with one space between them. Never raises, whatever the text.

    Idempotent, except whisper-compatible in English: the published one makes "oh oh seven" 007, and 007 it makes 7.
    """

    name: str
    step: Step = field(repr=False, compare=False)
    settles: bool = field(default=True, repr=False, compare=False)  # repeated until nothing changes

    @property
    def identity(self) -> str:
        """Name, version and library with its version: "english/1 whisper-normalization 1.0.0".

        Rates are compared only where this is the same.
        """
        own = f"{self.name}/{VERSIONS[self.name]}"
        library = LIBRARIES.get(self.name)
        return f"{own} {library} {version(library)}" if library else own

    def __call__(self, text: str) -> str:
        text = self.step(_SURROGATE.sub(" ", text))
        return _settled(text, self.step) if self.settles else text


@lru_cache
def normaliser(name: str, language: str) -> Normaliser:
    """The normaliser of that name; "auto" is english for en, mandarin for zh and multilingual for every other language.

    Raises ConfigError for a name that is not in NAMES.
    """
    if name == "auto":
        name = {"en": "english", "zh": "mandarin"}.get(language, "multilingual")
    if name == "whisper-compatible":
        return Normaliser(name, whisper(language), settles=False)
    if name == "spoken":
        return Normaliser(name, spoken(language))
    steps: dict[str, Step] = {"english": english, "multilingual": multilingual, "mandarin": mandarin}
    if name in steps:
        return Normaliser(name, steps[name])
    raise ConfigError(f"normaliser: {name!r} is none of {', '.join(NAMES)}")


def _settled(text: str, step: Step) -> str:
    """Step by step until nothing changes. Where texts repeat in a circle, the first of them in the alphabet."""
    seen: list[str] = []
    while text not in seen and len(seen) < PASSES:
        seen.append(text)
        text = step(text)
    return min(seen[seen.index(text) :]) if text in seen else text
