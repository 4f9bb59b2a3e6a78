"""Words that two overlapping windows recognised appear once; nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.output.stitch import join_words, stitch_segments

OVERLAP = 4_800  # 300 ms: at most three words or Han characters


def words_of(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "confidence": 0.5} for text in texts]


def recording(*segments: list[str], overlaps: bool = True) -> list[dict[str, Any]]:
    """Segments of 6 s with these words. Each one, except the first, overlaps the one before by 300 ms."""
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
    ("before", "after", "remaining"),
    [
        ("on monday morning", "monday morning at nine", "at nine"),
        ("on monday morning", "morning at nine", "at nine"),
        ("on monday", "tuesday at nine", "tuesday at nine"),
        ("on monday morning", "monday at nine", "monday at nine"),  # not the end of the words before
        ("On MONDAY, morning.", "monday morning at nine", "at nine"),
        ("on monday", "Monday, at nine", "at nine"),
        ("on monday", "monday , at nine", "at nine"),
        ("", "yes", "yes"),
        ("yes", "", ""),
        (
            "one two three four",
            "one two three four five",
            "one two three four five",
        ),  # 300 ms cannot contain four words
        ("no no no no", "no no no no never", "no never"),
        ("größe Straße", "STRASSE nord", "nord"),
        ("नमस्ते दोस्त", "दोस्त कैसे हो", "कैसे हो"),
    ],
)
def test_words_recognised_twice_appear_once(before: str, after: str, remaining: str) -> None:
    rows = stitch_segments(recording(before.split(), after.split()))
    assert texts(rows) == [before, remaining]
    assert [word["text"] for word in rows[1]["words"]] == remaining.split()


def test_a_segment_that_only_repeats_is_left_out_and_is_not_silence() -> None:
    """Empty text in the transcripts means that nothing was spoken."""
    assert texts(stitch_segments(recording(["yes"], ["yes"]))) == ["yes"]
    assert texts(stitch_segments(recording(["on", "monday"], ["Monday", "."], ["at", "nine"]))) == [
        "on monday",
        "at nine",
    ]


def test_the_confidence_is_that_of_the_words_that_are_left() -> None:
    rows = recording(["good", "morning"], ["morning", "to", "all"])
    rows[1]["words"][0]["confidence"] = 0.1
    rows[1]["words"][2]["confidence"] = 0.9
    assert stitch_segments(rows)[1]["confidence"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("before", "after", "remaining"),
    [
        (list("今天天气"), list("天气很好"), "很好"),
        (["今天", "天气"], ["天气", "很好"], "很好"),
        (list("今天天气"), ["天气很好"], "很好"),  # the words are cut elsewhere
        (["今天天气"], list("气很好"), "很好"),
        (list("今天天气。"), [*"天气。", *"很好"], "很好"),
        (list("大家好呀"), list("大家好呀吗"), "大家好呀吗"),  # 300 ms cannot contain four syllables
        (["我", "用", "iPhone"], ["iPhone", "拍", "照"], "拍照"),
    ],
)
def test_han_characters_are_compared_one_by_one(before: list[str], after: list[str], remaining: str) -> None:
    rows = stitch_segments(recording(before, after))
    assert rows[1]["text"] == remaining
    assert "".join(word["text"] for word in rows[1]["words"]) == remaining


def test_segments_without_overlap_do_not_change() -> None:
    rows = recording(["yes", "yes"], ["yes"], ["yes"], overlaps=False)
    assert stitch_segments(rows) == rows


def test_only_the_removed_words_change() -> None:
    rows = recording(["good", "morning"], ["morning", "all"])
    before = copy.deepcopy(rows)
    result = stitch_segments(rows)
    assert rows == before
    assert result[0] == rows[0]
    assert result[1] == rows[1] | {"text": "all", "words": words_of("all"), "confidence": 0.5}


def test_text_without_repeats_is_not_joined_anew() -> None:
    rows = recording(["good"], ["morning", "all"])
    rows[1]["text"] = "morning  all"
    assert stitch_segments(rows)[1]["text"] == "morning  all"


def test_a_segment_is_compared_with_all_words_of_the_one_before_also_with_removed_ones() -> None:
    assert texts(stitch_segments(recording(["yes"], ["yes"], ["yes", "no"]))) == ["yes", "no"]


def test_segments_without_words_pass() -> None:
    rows = recording(["yes"], ["yes"], ["yes"])
    rows[1] |= {"words": None, "text": ""}
    assert texts(stitch_segments(rows)) == ["yes", "", "yes"]
    assert stitch_segments([]) == []


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
def test_at_most_three_leading_words_are_removed_and_each_was_the_end_before(
    segments: list[list[str]],
) -> None:
    rows = recording(*segments)
    result = {row["steps"]: row for row in stitch_segments(rows)}
    for index, words in enumerate(segments):
        row = result.get(index, {"words": [], "text": ""})
        assert index in result or words
        remaining = [word["text"] for word in row["words"]]
        dropped = len(words) - len(remaining)
        assert 0 <= dropped <= min(3, 99 if index else 0)
        assert remaining == words[dropped:]
        assert words[:dropped] == (segments[index - 1][-dropped:] if dropped else [])
        assert row["text"] == join_words(words_of(*remaining))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(4, 10), st.integers(0, 3)), min_size=1, max_size=6))
def test_a_text_recognised_in_overlapping_windows_comes_back_whole(first: int, cuts: list[tuple[int, int]]) -> None:
    """Words w0, w1, ... are recognised in windows. Each window repeats 0 to 3 words of the window before."""
    segments, end = [[f"w{n}" for n in range(first)]], first
    for length, repeated in cuts:
        begin = end - min(repeated, len(segments[-1]))
        segments.append([f"w{n}" for n in range(begin, begin + length)])
        end = begin + length
    stitched = " ".join(text for text in texts(stitch_segments(recording(*segments))) if text)
    assert stitched.split() == [f"w{n}" for n in range(end)]
