"""As multilingual, with whole numbers in words: for references that say what was spoken, and models that write digits.

Words of numbers are those of CLDR (the library unicode-rbnf): "21" is "twenty one", "veintiuno", "二十一". Digits that
begin with a zero, and more than NUMBER of them, are read one by one. Not done, since digits do not show it: ordinals
("4e"), years by pairs, "cien" or "una" by what they count. A language that CLDR does not spell keeps its digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from unicode_rbnf import RbnfEngine

from pipeline.text.normalise_multilingual import multilingual

NUMBER = 9  # digits
_DIGITS = re.compile(r"\d+")


def spoken(language: str) -> Callable[[str], str]:
    """The normaliser of one language."""
    spell = _spelling(language)
    space = "" if language == "zh" else " "

    def words(match: re.Match[str]) -> str:
        digits = match[0]
        single = len(digits) > NUMBER or (digits[0] == "0" and len(digits) > 1)
        numbers = [spell(int(digit)) for digit in digits] if single else [spell(int(digits))]
        return space + space.join(numbers) + space

    return lambda text: multilingual(_DIGITS.sub(words, multilingual(text)))


def _spelling(language: str) -> Callable[[int], str]:
    """How a language says a whole number."""
    if language not in RbnfEngine.get_supported_languages():
        return str
    engine = RbnfEngine.for_language(language)

    @lru_cache(maxsize=10_000)
    def spell(number: int) -> str:
        return engine.format_number(number).text.replace("〇", "零")

    return spell
