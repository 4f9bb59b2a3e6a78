"""English as Whisper normalises it, without the flaws that make a rate depend on how a reference is typed.

The rules are those of the Whisper paper (appendix C). Dropped: (laughs), [noise], <unk>, um, uh, diacritics and
punctuation. "won't" becomes "will not", "dr" "doctor", "twenty one dollars" $21, "colour" "color". What differs:

- ’ and ʼ inside a word are apostrophes: "it’s" becomes "it is"; Whisper's rules make it "it s".
- A 1 is spelled out only where it stands alone: "three point one" becomes 3.1, and "one dollar" $1. Published figures
  up to 2026 have "3 one" and "one" (repaired upstream in August 2026, openai/whisper#2836).
- A sign before a digit is a word: "-5" is the same as "minus five". Whisper's rules drop the sign and keep the word.
- The result is normalised again until it no longer changes: 007 and "oh oh seven" both become 7.
"""

from __future__ import annotations

import re

from whisper_normalization import BasicTextNormalizer, EnglishNumberNormalizer, EnglishTextNormalizer

_APOSTROPHE = re.compile(r"(?<=\w)[’ʼ＇](?=\w)")
_MINUS = re.compile(r"(?<!\S)[-−](?=\d[\d.,]*(?!\w))")
_PLUS = re.compile(r"(?<!\S)\+(?=\d[\d.,]*(?!\w))")
_DOLLARS_AND_CENTS = re.compile(r"([€£$])(\d+) (?:and )?¢(\d{1,2})(?!\S)")
_ONLY_CENTS = re.compile(r"(?<!\S)[€£$]0\.(\d{2})(?!\S)")
# After a number it stays a digit: the next pass would read "20 one" as 21.
_LONE_ONE = re.compile(r"(?<!\S)(?<!\d )1(s?)(?!\S)")


class _Numbers(EnglishNumberNormalizer):
    """Number words to digits, with a last step of our own."""

    def postprocess(self, s: str) -> str:
        """Makes "$2.07" of "$2 and ¢7", "¢7" of "$0.07", and "one" of a lone "1"."""
        s = _DOLLARS_AND_CENTS.sub(lambda match: f"{match[1]}{match[2]}.{int(match[3]):02d}", s)
        s = _ONLY_CENTS.sub(lambda match: f"¢{int(match[1])}", s)
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
    """Whisper's own rules, unchanged."""
    return _without_raising(_PUBLISHED, text)


def _without_raising(rules: EnglishTextNormalizer, text: str) -> str:
    """Apply the rules. A number of more than 4,300 digits, which Python does not convert, stays as it is."""
    try:
        return " ".join(rules(text).split())
    except (ValueError, AssertionError):
        return " ".join(_WORDS_ONLY(text).split())
