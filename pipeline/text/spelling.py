"""What two words are compared as where only what is said counts: their letters."""

from __future__ import annotations

import unicodedata


def letters(text: str) -> str:
    """Letters, digits and the signs that belong to them (Hindi's vowels), without differences of case and width."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if unicodedata.category(character)[0] in "LMN")
