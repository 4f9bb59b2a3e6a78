"""The most frequent errors of each language, and words where nobody spoke."""

from __future__ import annotations

from pipeline.evaluation.confusions import Confused, Phantom, most_confused, phantoms
from tests.support.evaluated import evaluated_table, row

ROWS = evaluated_table(
    [
        row("en", "the cat sat", "the hat sat"),
        row("en", "a cat", "a hat"),
        row("en", "the end is", "end is now"),
        row("en", "never said", "", status="dead_letter"),
        row("en", None, "no reference"),
        row("zh", "我要茶", "我要鱼"),
        row("en", "", "thank you for watching", recording_id="silence-1"),
        row("en", "", "you", recording_id="silence-2"),
        row("en", "", "", recording_id="silence-3"),
    ]
)


def test_the_most_frequent_errors_come_first_in_the_units_of_each_language() -> None:
    assert most_confused(ROWS, 9) == [
        Confused("en", "cat", "hat", 2),
        Confused("en", "", "now", 1),
        Confused("en", "the", "", 1),
        Confused("zh", "茶", "鱼", 1),
    ]
    assert most_confused(ROWS, 1) == [Confused("en", "cat", "hat", 2), Confused("zh", "茶", "鱼", 1)]


def test_words_in_silence_are_listed_the_longest_first() -> None:
    assert phantoms(ROWS, 9) == [
        Phantom("en", "silence-1", "thank you for watching"),
        Phantom("en", "silence-2", "you"),
    ]
    assert phantoms(ROWS, 1) == [Phantom("en", "silence-1", "thank you for watching")]
