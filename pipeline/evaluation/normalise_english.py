"""English as Whisper normalises it, with the flaws out that make a rate depend on how a reference is typed.

The rules are those of the Whisper paper (appendix C): (laughs), [noise], <unk>, um and uh go; "won't" is "will not",
"dr" "doctor", "twenty one dollars" $21, "colour" "color"; no diacritics, no punctuation. What differs:

- ’ and ʼ inside a word are apostrophes: "it’s" is "it is", where Whisper hears "it s".
- A 1 is spelled out only where it stands alone: "three point one" is 3.1 and "one dollar" $1, where published figures
  up to 2026 have "3 one" and "one" (repaired upstream in August 2026, openai/whisper#2836).
- A sign before a digit is a word: "-5" is "minus five", where Whisper drops the one and keeps the other.
- The result is normalised until it no longer changes: 007 and "oh oh seven" are both 7.
"""

from __future__ import annotations

import re

from whisper_normalization import BasicTextNormalizer, EnglishNumberNormalizer, EnglishTextNormalizer

_APOSTROPHE = re.compile(r"(?<=\w)[’ʼ＇](?=\w)")
_MINUS = re.compile(r"(?<!\S)[-−](?=\d[\d.,]*(?!\w))")
_PLUS = re.compile(r"(?<!\S)\+(?=\d[\d.,]*(?!\w))")
_DOLLARS_AND_CENTS = re.compile(r"([€£$])(\d+) (?:and )?¢(\d{1,2})(?!\S)")
_ONLY_CENTS = re.compile(r"(?<!\S)[€£$]0\.(\d{2})(?!\S)")
# After a number it stays a digit: "20 one" would be read as 21 by the next pass.
_LONE_ONE = re.compile(r"(?<!\S)(?<!\d )1(s?)(?!\S)")


class _Numbers(EnglishNumberNormalizer):
    """Number words to digits, with its own last step."""

    def postprocess(self, s: str) -> str:
        """ "$2 and ¢7" to "$2.07", "$0.07" to "¢7", a lone "1" to "one"."""
        s = _DOLLARS_AND_CENTS.sub(lambda found: f"{found[1]}{found[2]}.{int(found[3]):02d}", s)
        s = _ONLY_CENTS.sub(lambda found: f"¢{int(found[1])}", s)
        return _LONE_ONE.sub(r"one\1", s)


_PUBLISHED = EnglishTextNormalizer()
_OURS = EnglishTextNormalizer()
_OURS.standardize_numbers = _Numbers()
_WORDS_ONLY = BasicTextNormalizer()


def english(text: str) -> str:
    """One pass of the rules above."""
    text = _PLUS.sub("plus ", _MINUS.sub("minus ", _APOSTROPHE.sub("'", text)))
    return _without_raising(_OURS, text)


def published_english(text: str) -> str:
    """Whisper's own, unchanged."""
    return _without_raising(_PUBLISHED, text)


def _without_raising(rules: EnglishTextNormalizer, text: str) -> str:
    """A text with a number of more than 4,300 digits, which Python does not convert, keeps its numbers as they are."""
    try:
        return " ".join(rules(text).split())
    except (ValueError, AssertionError):
        return " ".join(_WORDS_ONLY(text).split())
