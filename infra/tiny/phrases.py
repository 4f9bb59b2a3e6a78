"""Random and templated phrases in six languages, from closed vocabularies. The embedded model is trained on them."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from pipeline.config import LANGUAGES

VOCABULARY_FOLDER = Path(__file__).parent / "vocabulary"
MAX_WORDS = 8
MAX_CHARACTERS_ZH = 14
EVALUATION_SHARE = 20  # one text in 20 is held out for evaluation
TEMPLATE_ONLY = frozenset({"function", "clock", "counts"})  # lists that random sequences do not draw from
ITEM_COUNTS = (1, 2, 3, 4, 5, 6)  # items of a random sequence; an item is "monday" or "twenty three"
ITEM_WEIGHTS = (10, 22, 26, 20, 14, 8)
NUMBER_SHARE = 0.3  # of the items of a random sequence
TEMPLATE_SHARE = 0.4
SHORT = {"zh": 1, "hi": 3}  # most letters of a word of one syllable, about; other languages: 4

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The closed vocabulary of one language.

    lists: name -> items of one or more words. Three lists are derived: `several` (numbers that go with a plural),
    `days` (of a month, from the second) and `hours` (of a clock).
    others: the items of random sequences that are no numbers.
    templates: texts with slots; {colours} is filled from the list `colours`.
    """

    language: str
    lists: dict[str, tuple[str, ...]]
    others: tuple[str, ...]
    templates: tuple[str, ...]

    @property
    def joiner(self) -> str:
        """What stands between two items: a space, in Mandarin nothing."""
        return "" if self.language == "zh" else " "

    def words(self) -> frozenset[str]:
        """All single words; of Mandarin all characters."""
        items = " ".join(item for items in self.lists.values() for item in items)
        return frozenset(items.replace(" ", "")) if self.language == "zh" else frozenset(items.split())


@cache
def vocabulary(language: str) -> Vocabulary:
    """The vocabulary of one of LANGUAGES; its file is read once. Raises ValueError for another language."""
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
    # BaseLoader keeps every scalar text: "yes", "no" and "on" are words here, not booleans.
    tree = yaml.load((VOCABULARY_FOLDER / f"{language}.yaml").read_text("utf-8"), Loader=yaml.BaseLoader)
    templates = tuple(tree.pop("templates"))
    lists = {name: tuple(items) for name, items in tree.items()}
    drawn = (item for name, items in lists.items() if name not in TEMPLATE_ONLY | {"numbers"} for item in items)
    numbers = lists["numbers"]
    others = tuple(item for item in dict.fromkeys(drawn) if item not in numbers)
    lists["several"] = tuple(text for value, text in enumerate(numbers) if value > 1 and value % 10 != 1)
    lists["days"] = numbers[2:32]
    lists["hours"] = numbers[1:13]
    return Vocabulary(language, lists, others, templates)


def phrase(language: str, rng: random.Random) -> str:
    """Draw a phrase of 1 to 8 words (Mandarin: 1 to 14 characters), lower case, without punctuation.

    Two phrases in five fill a template, the others are random sequences. The same state of rng gives the same phrase.
    Raises ValueError for a language that is not one of LANGUAGES.
    """
    table = vocabulary(language)
    while True:
        text = _from_template(table, rng) if rng.random() < TEMPLATE_SHARE else _sequence(table, rng)
        if _fits(table, text):
            return text


def item(language: str, rng: random.Random) -> str:
    """Draw one item of random sequences that is not held out: "monday", "twenty three". Four in five are no numbers."""
    table = vocabulary(language)
    while True:
        text = rng.choice(table.others if rng.random() < 0.8 else table.lists["numbers"])
        if not is_evaluation(text):
            return text


@cache
def short_words(language: str) -> tuple[str, ...]:
    """The words of about one syllable, sorted: "fish", and what random sequences never draw alone: "of", "und"."""
    return tuple(sorted(word for word in vocabulary(language).words() if len(word) <= SHORT.get(language, 4)))


def short_word(language: str, rng: random.Random) -> str:
    """Draw one of short_words that is not held out."""
    while is_evaluation(word := rng.choice(short_words(language))):
        pass
    return word


def is_evaluation(text: str) -> bool:
    """Whether a text is held out for evaluation. The text alone decides: no text is ever on both sides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % EVALUATION_SHARE == 0


def _from_template(table: Vocabulary, rng: random.Random) -> str:
    template = rng.choice(table.templates)
    return _SLOT.sub(lambda slot: rng.choice(table.lists[slot[1]]), template)


def _sequence(table: Vocabulary, rng: random.Random) -> str:
    """Items in any order. Numbers meet only as single digits: "quatre vingts" + "trois" would be another number."""
    numbers = table.lists["numbers"]
    items: list[str] = []
    for _ in range(rng.choices(ITEM_COUNTS, ITEM_WEIGHTS)[0]):
        previous = items[-1] if items else ""
        if rng.random() >= NUMBER_SHARE:
            items.append(rng.choice(table.others))
        elif previous not in numbers:
            items.append(rng.choice(numbers))
        else:
            items.append(rng.choice(numbers[:10] if previous in numbers[:10] else table.others))
    return table.joiner.join(items)


def _fits(table: Vocabulary, text: str) -> bool:
    if table.language == "zh":
        return len(text) <= MAX_CHARACTERS_ZH
    return len(text.split()) <= MAX_WORDS
