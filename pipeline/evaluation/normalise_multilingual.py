"""Lower case, NFC, no punctuation, no symbols: for every language whose words stand between spaces.

- No letter, mark (Unicode category M) or digit is ever dropped or split off: a Hindi word keeps its vowel signs, a
  German, French or Spanish one its diacritics. Danda and double danda are punctuation.
- An apostrophe inside a word stays, written ': "l'homme" and "geht's" are one word each, with whichever of ' ’ ‘ ʼ ＇
  they are typed. One at the beginning or the end of a word is a quotation mark, and goes.
- Hyphens and dashes become a space: transcripts disagree on "E-Mail", and counts with merged compounds forgive the
  rest ("e mail" = "email").
- Format characters (soft hyphen, zero-width joiners, direction marks, byte order mark) are neither seen nor heard: they
  go without a space. NFC has its say on Hindi too: the one-character क़ is spelled with a nukta.
- Numbers stay as they are written; between their digits, point and comma become a space.
"""

from __future__ import annotations

import re
import unicodedata

APOSTROPHES = "'’‘ʼ＇"
_REPEATED = re.compile("''+")


class _Table(dict[int, str]):
    """What str.translate puts for each code point, found when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in APOSTROPHES:
            self[code] = "'"
        elif category[0] in "LMN":
            self[code] = character
        else:
            self[code] = "" if category == "Cf" else " "
        return self[code]


_TABLE = _Table()


def multilingual(text: str) -> str:
    """Words of letters, marks, digits and inner apostrophes, one space between them."""
    text = unicodedata.normalize("NFC", text).lower()
    text = _REPEATED.sub(" ", text.translate(_TABLE))
    words = (word.strip("'") for word in text.split())
    return unicodedata.normalize("NFC", " ".join(word for word in words if word))
