"""What a transcript is compared as: normalisers by name, each with a hash of what it does to a fixed list of texts.

| name | for | what it does |
| --- | --- | --- |
| english | en | as Whisper's: brackets and fillers away, contractions expanded, numbers to digits, US spelling |
| multilingual | de, fr, es, hi, ... | lower case, NFC, no punctuation and symbols; every letter, mark and digit stays |
| mandarin | zh | NFKC, simplified, numerals to digits, no spaces, no punctuation |
| whisper-compatible | any | what published Whisper figures use, to compare with those; breaks Hindi words apart |

Files normalise_*.py have the rules.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from pipeline.config import ConfigError
from pipeline.evaluation.normalise_english import english, english_probes
from pipeline.evaluation.normalise_mandarin import mandarin, mandarin_probes
from pipeline.evaluation.normalise_multilingual import multilingual
from pipeline.evaluation.normalise_probes import PROBES
from pipeline.evaluation.normalise_whisper import whisper

Step = Callable[[str], str]

NAMES = ("auto", "english", "multilingual", "mandarin", "whisper-compatible")
VERSIONS = {"english": "1", "multilingual": "1", "mandarin": "1", "whisper-compatible": "1"}  # of the rules as meant
PASSES = 20  # texts settle after two or three
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character of UTF-16: no encoder takes it


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Text in, comparable text out: words with one space between them. Never raises, whatever the text.

    Idempotent, but for whisper-compatible in English: the published one makes "oh oh seven" 007 and 007 7.
    """

    name: str
    version: str  # raised when a rule is changed on purpose
    hash: str  # 12 hex digits: the same as long as the probe texts come out the same, whatever library is beneath
    step: Step = field(repr=False, compare=False)
    settles: bool = field(default=True, repr=False, compare=False)  # repeated until nothing changes

    def __call__(self, text: str) -> str:
        return _normalised(text, self.step, self.settles)


@lru_cache
def normaliser(name: str, language: str) -> Normaliser:
    """The normaliser of that name; "auto" is english for en, mandarin for zh and multilingual for every other language.

    Raises ConfigError for a name that is none of NAMES.
    """
    if name == "auto":
        name = {"en": "english", "zh": "mandarin"}.get(language, "multilingual")
    if name == "english":
        return _built(name, english, english_probes())
    if name == "multilingual":
        return _built(name, multilingual, ())
    if name == "mandarin":
        return _built(name, mandarin, mandarin_probes())
    if name == "whisper-compatible":
        return _built(name, whisper(language), english_probes() if language == "en" else (), settles=False)
    raise ConfigError(f"normaliser: {name!r} is none of {', '.join(NAMES)}")


def behaviour_hash(name: str, step: Step, probes: Iterable[str] = (), *, settles: bool = True) -> str:
    """First 12 hex digits of the SHA-256 of a name and of what becomes of PROBES and `probes`."""
    outputs = [_normalised(probe, step, settles) for probe in (*PROBES, *probes)]
    return hashlib.sha256("\0".join([name, *outputs]).encode()).hexdigest()[:12]


def _built(name: str, step: Step, probes: Iterable[str], *, settles: bool = True) -> Normaliser:
    found = behaviour_hash(name, step, probes, settles=settles)
    return Normaliser(name, VERSIONS[name], found, step, settles)


def _normalised(text: str, step: Step, settles: bool) -> str:
    """`settles`: step by step until nothing changes; of texts that turn in a circle, the first in the alphabet."""
    text = step(_SURROGATE.sub(" ", text))
    if not settles:
        return text
    seen: list[str] = []
    while text not in seen and len(seen) < PASSES:
        seen.append(text)
        text = step(text)
    return min(seen[seen.index(text) :]) if text in seen else text
