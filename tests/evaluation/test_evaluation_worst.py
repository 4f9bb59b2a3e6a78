"""worst: which utterances are shown, how their differences are marked, what a browser may play."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.worst import AROUND, STRETCHES, utterance, worst_recordings
from pipeline.output.page import playable, render_page
from tests.support.evaluated import evaluated_table, made_up_rows, row


def listing(rows: list[dict[str, Any]]) -> str:
    """The rows as the report shows them."""
    return render_page("worst.html.j2", utterances=[utterance(one) for one in rows])


def marked(reference: str, hypothesis: str) -> str:
    """The text of one utterance with its marks."""
    found = re.search('<p class="text"[^>]*>(.*?)</p>', listing([row("en", reference, hypothesis)]), re.DOTALL)
    assert found
    return found[1]


words = st.lists(st.sampled_from(["a", "b", "<c>", "&d", "नमक"]), max_size=12).map(" ".join)


def test_most_errors_come_first_and_among_equals_the_higher_rate() -> None:
    rows = [
        row("en", "a b c d", "a b c x", recording_id="one of four"),
        row("en", "a b", "x b", recording_id="one of two"),
        row("en", "a b c d e f", "x y z d e f", recording_id="three"),
        row("en", "a b", "a b", recording_id="none"),
        row("en", "", "a", recording_id="empty reference"),
    ]
    found = [one["recording_id"] for one in worst_recordings(evaluated_table(rows), 50)]
    assert found == ["three", "empty reference", "one of two", "one of four"]
    assert len(worst_recordings(evaluated_table(rows), 2)) == 2


def test_mandarin_is_judged_by_characters() -> None:
    rows = [
        row("zh", "我要茶和鱼", "我要水和肉", recording_id="zh"),  # two characters, one "word"
        row("en", "a b c d", "x b c d", recording_id="en"),
    ]
    assert [one["recording_id"] for one in worst_recordings(evaluated_table(rows), 2)] == ["zh", "en"]
    page = listing(worst_recordings(evaluated_table(rows), 1))
    assert "我要<del>茶</del><ins>水</ins>和<del>鱼</del><ins>肉</ins>" in page
    assert "CER 40.00 %" in page
    assert "2 errors (S 2, D 0, I 0)" in page


@pytest.mark.parametrize(
    "left_out",
    [
        row("en", "a b", "", status="dead_letter"),
        row("en", "a b", "", status="missing"),
        row("en", None, "a b", reference_normal=None),
        row("en", "a b", "a b"),
    ],
)
def test_what_was_not_transcribed_or_has_no_error_is_not_shown(left_out: dict[str, object]) -> None:
    assert worst_recordings(evaluated_table([left_out]), 50) == []


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the dog sat", "the <del>cat</del> <ins>dog</ins> sat"),
        ("the cat sat", "the sat", "the <del>cat</del> sat"),
        ("the sat", "the cat sat", "the <ins>cat</ins> sat"),
        ("a b c", "x y c", "<del>a b</del> <ins>x y</ins> c"),
        ("a", "", "<del>a</del>"),
        ("", "a b", "<ins>a b</ins>"),
        ("", "", ""),
    ],
)
def test_differences_are_marked_as_deleted_and_inserted(reference: str, hypothesis: str, expected: str) -> None:
    assert marked(reference, hypothesis) == expected


@given(words, words)
def test_both_texts_can_be_read_from_a_difference(reference: str, hypothesis: str) -> None:
    shown = marked(reference, hypothesis)
    if "…" in shown:
        return
    for unwanted, text in (("ins", reference), ("del", hypothesis)):
        rest = re.sub(f"<{unwanted}>.*?</{unwanted}>", "", shown)
        rest = re.sub("</?(ins|del)>", "", rest).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        assert rest.split() == text.split()


def test_long_equal_stretches_lose_their_middle() -> None:
    same = " ".join(f"w{number}" for number in range(100))
    shown = marked(f"{same} a {same}", f"{same} b {same}")
    kept = [f"w{number}" for number in range(100 - AROUND, 100)]
    assert shown.startswith(f"… {' '.join(kept)} <del>a</del> <ins>b</ins> w0 ")
    assert shown.endswith(f"w{AROUND - 1} …")


def test_the_whole_text_stays_where_nothing_is_wrong() -> None:
    same = " ".join(["w"] * 100)
    assert marked(same, same) == same


def test_an_hour_with_errors_everywhere_is_not_embedded() -> None:
    reference = " ".join(["a b"] * 2 * STRETCHES)
    shown = marked(reference, reference.replace("b", "c"))
    assert shown.count("<del>") == STRETCHES / 2
    assert shown.endswith("more stretches</span>")


@pytest.mark.parametrize(
    ("audio", "address"),
    [
        ("https://host/a.wav?sign=1&b=2", "https://host/a.wav?sign=1&b=2"),
        ("HTTP://host/a", "HTTP://host/a"),
        ("file:///data/a.flac", "file:///data/a.flac"),
        ("audio/a b#1%.MP3", "audio/a%20b%231%25.MP3"),
        ("/data/हिन्दी.opus", "/data/%E0%A4%B9%E0%A4%BF%E0%A4%A8%E0%A5%8D%E0%A4%A6%E0%A5%80.opus"),
        ("s3://bucket/a.wav", None),
        ("gs://bucket/a.wav", None),
        ("javascript:alert(1)//.wav", None),
        ("data:audio/wav;base64,AAAA", None),
        ("//host/a.wav", None),
        ("shards/0.tar!a.wav", None),
        ("https://host/0.tar!a.wav", None),
        ("rows.parquet", None),
        ("http://[", None),
    ],
)
def test_what_a_browser_can_play(audio: str, address: str | None) -> None:
    assert playable(audio) == address
    shown = listing([row("en", "a", "b", audio=audio)])
    assert ("<audio" in shown) == (address is not None)
    assert audio.replace("&", "&amp;") in shown  # a person can read it


def test_a_player_loads_nothing_by_itself_and_no_audio_is_no_player() -> None:
    assert 'preload="none"' in listing([row("en", "a", "b", audio="a.wav")])
    for nothing in (None, ""):
        shown = listing([row("en", "a", "b", audio=nothing)])
        assert "<audio" not in shown
        assert 'class="place"' not in shown


def test_a_row_with_everything_unknown_is_shown() -> None:
    unknown = dict.fromkeys(("speaker", "seconds", "snr_db", "confidence", "steps", "audio"))
    page = listing(worst_recordings(evaluated_table([row("unknown", "a", "b", **unknown)]), 1))
    assert "None" not in page
    assert "<del>a</del> <ins>b</ins>" in page


def test_the_marks_have_a_legend() -> None:
    page = listing(worst_recordings(evaluated_table(made_up_rows(5)), 3))
    assert page.index("<del>struck through</del>") < page.index("<ol")
    assert page.count("<li>") == 3
