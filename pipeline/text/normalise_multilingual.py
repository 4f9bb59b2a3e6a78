"""Lower case, NFC, no punctuation, no symbols: for every language that writes spaces between words.

- No letter, mark (Unicode category M) or digit is dropped or split off. A Hindi word keeps its vowel signs; a German,
  French or Spanish word keeps its diacritics. Danda and double danda are punctuation.
- An apostrophe inside a word stays and is written ': "l'homme" and "geht's" are one word each, typed with any of
  ' ’ ‘ ʼ ＇. An apostrophe at the beginning or end of a word is a quotation mark and is dropped.
- Hyphens and dashes become a space, because transcripts disagree on "E-Mail". Counts with merged compounds accept
  "email" for "e mail" as well.
- Format characters (soft hyphen, zero-width joiners, direction marks, byte order mark) are invisible and silent. They
  are dropped without a space. NFC changes Hindi too: the one-character क़ becomes a letter and a nukta.
- Numbers stay as they are written. Point and comma between their digits become a space.
"""

from __future__ import annotations

import re
import unicodedata

APOSTROPHES = "'’‘ʼ＇"
_REPEATED = re.compile("''+")


class _Table(dict[int, str]):
    """What str.translate puts for each code point; filled when a code point first occurs."""

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
    """Words of letters, marks, digits and inner apostrophes, with one space between them."""
    text = unicodedata.normalize("NFC", text).lower()
    text = _REPEATED.sub(" ", text.translate(_TABLE))
    words = (word.strip("'") for word in text.split())
    return unicodedata.normalize("NFC", " ".join(word for word in words if word))
