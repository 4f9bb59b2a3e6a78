"""What pipeline.output.stitch promises."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.output.stitch import join_words, stitch

OVERLAP = 4_800  # 300 ms: at most three units


def words_of(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "confidence": 0.5} for text in texts]


def recording(*segments: list[str], overlaps: bool = True) -> list[dict[str, Any]]:
    """Segments of 6 s with these words, all but the first of which overlap the one before by 300 ms."""
    step = 96_000 - (OVERLAP if overlaps else 0)
    return [
        {
            "text": join_words(words_of(*words)),
            "words": words_of(*words),
            "start_sample": index * step,
            "end_sample": index * step + 96_000,
            "overlaps_previous": overlaps and index > 0,
            "steps": index,
        }
        for index, words in enumerate(segments)
    ]


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("on monday morning", "monday morning at nine", "at nine"),
        ("on monday morning", "morning at nine", "at nine"),
        ("on monday", "tuesday at nine", "tuesday at nine"),
        ("on monday morning", "monday at nine", "monday at nine"),  # not the end of what was heard
        ("On MONDAY, morning.", "monday morning at nine", "at nine"),
        ("on monday", "Monday, at nine", "at nine"),
        ("on monday", "monday , at nine", "at nine"),
        ("", "yes", "yes"),
        ("yes", "", ""),
        ("one two three four", "one two three four five", "one two three four five"),  # 300 ms do not hold four words
        ("no no no no", "no no no no never", "no never"),
        ("größe Straße", "STRASSE nord", "nord"),
        ("नमस्ते दोस्त", "दोस्त कैसे हो", "कैसे हो"),
    ],
)
def test_words_heard_twice_are_kept_once(before: str, after: str, kept: str) -> None:
    rows = stitch(recording(before.split(), after.split()))
    assert texts(rows) == [before, kept]
    assert [word["text"] for word in rows[1]["words"]] == kept.split()


def test_a_segment_that_only_repeats_is_no_silence() -> None:
    """An empty text in the transcripts says that nothing was spoken."""
    assert texts(stitch(recording(["yes"], ["yes"]))) == ["yes"]
    assert texts(stitch(recording(["on", "monday"], ["Monday", "."], ["at", "nine"]))) == ["on monday", "at nine"]


def test_the_confidence_is_that_of_the_words_that_are_left() -> None:
    rows = recording(["good", "morning"], ["morning", "to", "all"])
    rows[1]["words"][0]["confidence"] = 0.1
    rows[1]["words"][2]["confidence"] = 0.9
    assert stitch(rows)[1]["confidence"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (list("今天天气"), list("天气很好"), "很好"),
        (["今天", "天气"], ["天气", "很好"], "很好"),
        (list("今天天气"), ["天气很好"], "很好"),  # the tokens are cut elsewhere
        (["今天天气"], list("气很好"), "很好"),
        (list("今天天气。"), [*"天气。", *"很好"], "很好"),
        (list("大家好呀"), list("大家好呀吗"), "大家好呀吗"),  # 300 ms do not hold four syllables
        (["我", "用", "iPhone"], ["iPhone", "拍", "照"], "拍照"),
    ],
)
def test_han_characters_are_compared_one_by_one(before: list[str], after: list[str], kept: str) -> None:
    rows = stitch(recording(before, after))
    assert rows[1]["text"] == kept
    assert "".join(word["text"] for word in rows[1]["words"]) == kept


def test_boundaries_without_overlap_are_left_alone() -> None:
    rows = recording(["yes", "yes"], ["yes"], ["yes"], overlaps=False)
    assert stitch(rows) == rows


def test_only_what_is_dropped_changes() -> None:
    rows = recording(["good", "morning"], ["morning", "all"])
    before = copy.deepcopy(rows)
    result = stitch(rows)
    assert rows == before
    assert result[0] == rows[0]
    assert result[1] == rows[1] | {"text": "all", "words": words_of("all"), "confidence": 0.5}


def test_text_without_repeats_is_not_joined_anew() -> None:
    rows = recording(["good"], ["morning", "all"])
    rows[1]["text"] = "morning  all"
    assert stitch(rows)[1]["text"] == "morning  all"


def test_a_segment_is_compared_with_what_the_one_before_heard_not_with_what_is_left_of_it() -> None:
    assert texts(stitch(recording(["yes"], ["yes"], ["yes", "no"]))) == ["yes", "no"]


def test_segments_without_words_pass() -> None:
    rows = recording(["yes"], ["yes"], ["yes"])
    rows[1] |= {"words": None, "text": ""}
    assert texts(stitch(rows)) == ["yes", "", "yes"]
    assert stitch([]) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["good", "morning"], "good morning"),
        (["今", "天", "好"], "今天好"),
        (["我", "用", "iPhone", "15", "拍"], "我用iPhone 15拍"),
        (["你", "好", "，", "再", "见", "。"], "你好，再见。"),
        (["नमस्ते", "दोस्त"], "नमस्ते दोस्त"),
        ([], ""),
    ],
)
def test_words_are_joined_with_spaces_but_not_beside_han(words: list[str], text: str) -> None:
    assert join_words(words_of(*words)) == text


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"]), max_size=12)
HAN = st.lists(st.sampled_from("天地人你我他好大小"), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS | HAN, max_size=6))
def test_at_most_three_leading_words_are_dropped_and_each_was_the_end_before(segments: list[list[str]]) -> None:
    rows = recording(*segments)
    result = {row["steps"]: row for row in stitch(rows)}
    for index, words in enumerate(segments):
        row = result.get(index, {"words": [], "text": ""})
        assert index in result or words
        kept = [word["text"] for word in row["words"]]
        dropped = len(words) - len(kept)
        assert 0 <= dropped <= min(3, 99 if index else 0)
        assert kept == words[dropped:]
        assert words[:dropped] == (segments[index - 1][-dropped:] if dropped else [])
        assert row["text"] == join_words(words_of(*kept))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(4, 10), st.integers(0, 3)), min_size=1, max_size=6))
def test_a_text_heard_in_overlapping_windows_comes_back_whole(first: int, cuts: list[tuple[int, int]]) -> None:
    """Words w0, w1, ... are heard in windows, each of which repeats 0 to 3 words of the one before."""
    segments, end = [[f"w{n}" for n in range(first)]], first
    for length, repeated in cuts:
        begin = end - min(repeated, len(segments[-1]))
        segments.append([f"w{n}" for n in range(begin, begin + length)])
        end = begin + length
    heard = " ".join(text for text in texts(stitch(recording(*segments))) if text)
    assert heard.split() == [f"w{n}" for n in range(end)]
