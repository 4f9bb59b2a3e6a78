"""What pipeline.evaluation.score promises."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.result import Counts
from pipeline.evaluation.score import Aligned, alignment, char_counts, merged_counts, word_counts


@pytest.mark.parametrize(
    ("reference", "hypothesis", "hits", "substitutions", "deletions", "insertions"),
    [
        ("the cat sat", "the cat sat", 3, 0, 0, 0),
        ("the cat sat", "the hat sat", 2, 1, 0, 0),
        ("the cat sat", "the sat", 2, 0, 1, 0),
        ("the cat sat", "the big cat sat", 3, 0, 0, 1),
        ("the cat sat", "", 0, 0, 3, 0),
        ("", "the cat", 0, 0, 0, 2),
        ("", "", 0, 0, 0, 0),
        ("the cat sat on the mat", "a cat sat the mat now", 4, 1, 1, 1),
        ("  the   cat ", "the cat", 2, 0, 0, 0),
        ("the note book", "the notebook", 1, 1, 1, 0),
        ("मुझे रोटी चाहिए", "मुझे रोटि चाहिए", 2, 1, 0, 0),
    ],
)
def test_words_are_counted_as_by_hand(
    reference: str, hypothesis: str, hits: int, substitutions: int, deletions: int, insertions: int
) -> None:
    assert word_counts(reference, hypothesis) == Counts(hits, substitutions, deletions, insertions)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "hits", "substitutions", "deletions", "insertions"),
    [
        ("我要茶和鱼", "我要茶和鱼", 5, 0, 0, 0),
        ("我要茶和鱼", "我要查和鱼", 4, 1, 0, 0),
        ("我要茶和鱼", "我要和鱼了", 4, 0, 1, 1),
        ("ab cd", "abcd", 4, 0, 1, 0),  # a missed word boundary
        ("ab  cd ", " ab cd", 5, 0, 0, 0),  # how wide it is does not matter
        ("", "ab c", 0, 0, 0, 4),
        ("ab", "", 0, 0, 2, 0),
        ("", "", 0, 0, 0, 0),
        ("हूँ", "हूं", 2, 1, 0, 0),  # ह ू ँ: one vowel sign, one nasal mark
    ],
)
def test_characters_are_counted_as_by_hand(
    reference: str, hypothesis: str, hits: int, substitutions: int, deletions: int, insertions: int
) -> None:
    assert char_counts(reference, hypothesis) == Counts(hits, substitutions, deletions, insertions)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "hits", "substitutions", "deletions", "insertions"),
    [
        ("the note book is red", "the notebook is red", 5, 0, 0, 0),
        ("the notebook is red", "the note book is red", 4, 0, 0, 0),
        ("the notebook is red", "the note book is blue", 3, 1, 0, 0),
        ("e mail", "email", 2, 0, 0, 0),
        ("the note book", "the notebooks", 1, 1, 1, 0),  # not the same letters
        ("", "note book", 0, 0, 0, 2),
        ("note book", "", 0, 0, 2, 0),
        ("", "", 0, 0, 0, 0),
    ],
)
def test_compounds_written_apart_are_no_error(
    reference: str, hypothesis: str, hits: int, substitutions: int, deletions: int, insertions: int
) -> None:
    assert merged_counts(reference, hypothesis) == Counts(hits, substitutions, deletions, insertions)


def test_the_alignment_names_each_word_once_on_each_side() -> None:
    assert alignment("the cat sat on it", "a the cat stood on") == [
        Aligned("insert", "", "a"),
        Aligned("equal", "the", "the"),
        Aligned("equal", "cat", "cat"),
        Aligned("substitute", "sat", "stood"),
        Aligned("equal", "on", "on"),
        Aligned("delete", "it", ""),
    ]
    assert alignment("茶和鱼", "查和", chars=True) == [
        ("substitute", "茶", "查"),
        ("equal", "和", "和"),
        ("delete", "鱼", ""),
    ]
    assert alignment("", "") == []
    assert alignment("", "a b") == [("insert", "", "a"), ("insert", "", "b")]


# Few words, so that much of it repeats; "ab" is "a" and "b" written together.
TEXT = st.lists(st.sampled_from(["a", "b", "ab", "ba", "c"]), max_size=8).map(" ".join)


def fewest_errors(reference: list[str], hypothesis: list[str], *, merge: bool = False) -> int:
    """Levenshtein's table, written down; `merge`: neighbours that make one word of the other side cost nothing."""
    best = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(hypothesis) + 1)] for i in range(len(reference) + 1)]
    for i in range(1, len(reference) + 1):
        for j in range(1, len(hypothesis) + 1):
            ways = [best[i - 1][j] + 1, best[i][j - 1] + 1]
            ways.append(best[i - 1][j - 1] + (reference[i - 1] != hypothesis[j - 1]))
            if merge:
                here, there = reference[i - 1], hypothesis[j - 1]
                ways += [best[i - n][j - 1] for n in range(2, i + 1) if "".join(reference[i - n : i]) == there]
                ways += [best[i - 1][j - n] for n in range(2, j + 1) if "".join(hypothesis[j - n : j]) == here]
            best[i][j] = min(ways)
    return best[-1][-1]


@settings(max_examples=200)
@given(TEXT, TEXT)
def test_the_errors_are_the_fewest_possible(reference: str, hypothesis: str) -> None:
    words, chars = word_counts(reference, hypothesis), char_counts(reference, hypothesis)
    merged = merged_counts(reference, hypothesis)
    left, right = reference.split(), hypothesis.split()
    assert words.errors == fewest_errors(left, right)
    assert chars.errors == fewest_errors(list(reference), list(hypothesis))
    assert merged.errors == fewest_errors(left, right, merge=True)
    assert words.units == merged.units == len(left)
    assert chars.units == len(reference)
    assert words.hits + words.substitutions + words.insertions == len(right)


@settings(max_examples=150)
@given(TEXT, TEXT, st.booleans())
def test_the_alignment_agrees_with_the_counts(reference: str, hypothesis: str, chars: bool) -> None:
    steps = alignment(reference, hypothesis, chars=chars)
    joint = "" if chars else " "
    assert joint.join(step.reference for step in steps if step.operation != "insert") == reference
    assert joint.join(step.hypothesis for step in steps if step.operation != "delete") == hypothesis
    found = [step.operation for step in steps]
    counts = (char_counts if chars else word_counts)(reference, hypothesis)
    assert Counts(*map(found.count, ("equal", "substitute", "delete", "insert"))) == counts
    for step in steps:
        assert (step.reference == step.hypothesis) == (step.operation == "equal")
