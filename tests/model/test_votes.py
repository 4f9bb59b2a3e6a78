"""Votes: the text of more than half of the confidence wins, words keep their order, and batches decide nothing."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LANGUAGES, DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.denoise.engine import Engine
from pipeline.model.denoise.votes import Ballot, elected
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment, SegmentResult, Word
from tests.support.small_model import hearing_model, noise_segment

SURE = 0.9


def text(words: list[str], confidence: float = SURE) -> SegmentResult:
    """A result whose words last 100 ms each, with a signal of its own for the segment and each word."""
    given: list[Word] = [
        {
            "text": word,
            "confidence": confidence,
            "start_ms": 100 * number,
            "end_ms": 100 * number + 100,
            "signals": {"entropy_max": confidence},
        }
        for number, word in enumerate(words)
    ]
    return SegmentResult(" ".join(words), confidence, given, {"entropy_mean": confidence}, steps=len(words))


def agreement(result: SegmentResult) -> list[Any]:
    return [(word["signals"] or {})["vote_agreement"] for word in result.words]


def test_a_word_that_two_of_three_have_wins() -> None:
    result = elected(
        [text(["the", "cat", "sat"], 0.5), text(["the", "bat", "sat"], 0.4), text(["a", "cat", "sat"], 0.4)]
    )
    assert result.text == "the cat sat"
    assert agreement(result) == pytest.approx([2 / 3, 2 / 3, 1])
    assert result.signals is not None
    assert result.signals["votes"] == 3
    assert result.signals["vote_agreement"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_the_confident_text_wins_against_one_that_is_not() -> None:
    assert elected([text(["no"], 0.3), text(["yes"], 0.6)]).text == "yes"


def test_a_text_that_nobody_wrote_may_win_and_takes_the_rest_from_the_nearest() -> None:
    texts = [text(["a", "b", "x", "d"], 0.6), text(["a", "y", "c", "d"], 0.5), text(["z", "b", "c", "d"], 0.4)]
    result = elected(texts)
    assert result.text == "a b c d"
    assert (result.confidence, result.steps) == (0.6, 4)
    assert result.signals is not None
    assert result.signals["entropy_mean"] == 0.6
    assert [word["confidence"] for word in result.words] == [0.6, 0.6, 0.5, 0.6]
    assert [(word["signals"] or {})["entropy_max"] for word in result.words] == [0.6, 0.6, 0.5, 0.6]


def test_han_characters_stand_together() -> None:
    texts = [text(["我", "要", "tee"], 0.6), text(["你", "要", "ja"], 0.5), text(["你", "不", "tee"], 0.4)]
    assert elected(texts).text == "你要tee"


def test_capitals_and_punctuation_are_no_other_word() -> None:
    result = elected([text(["Hello,", "you"], 0.6), text(["hello", "two"], 0.5), text(["hello", "two"], 0.5)])
    assert [word["text"] for word in result.words] == ["Hello,", "two"]
    assert agreement(result) == pytest.approx([1, 2 / 3])


def test_a_word_that_most_do_not_have_goes_and_counts_as_a_place() -> None:
    result = elected([text(["one", "two"], 0.6), text(["one"], 0.5), text(["one"], 0.5)])
    assert result.text == "one"
    assert result.signals is not None
    assert result.signals["vote_agreement"] == pytest.approx((1 + 2 / 3) / 2)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8)
SCORE = st.floats(0, 1)
TEXTS = st.lists(st.builds(text, WORDS, SCORE), min_size=1, max_size=6)


@given(WORDS, st.lists(SCORE, min_size=1, max_size=5))
def test_texts_that_agree_are_kept_whole(words: list[str], scores: list[float]) -> None:
    result = elected([text(words, score) for score in scores])
    assert result.text == " ".join(words)
    assert agreement(result) == [1.0] * len(words)
    assert result.signals is not None
    assert result.signals["vote_agreement"] == 1


@given(WORDS, st.lists(WORDS, max_size=3), st.floats(0.5, 1))
def test_the_text_of_more_than_half_of_the_confidence_wins(
    words: list[str], others: list[list[str]], score: float
) -> None:
    """Whether it is the first, or is aligned with another that is more confident."""
    rest = [text(other, score * 1.05) for other in others]
    result = elected([*rest, *(text(words, score) for _ in range(len(others) + 2))])
    assert [word["text"] for word in result.words] == words


@given(TEXTS)
def test_every_word_is_one_of_a_text_and_times_do_not_run_back(texts: list[SegmentResult]) -> None:
    result = elected(texts)
    assert {word["text"] for word in result.words} <= {word["text"] for one in texts for word in one.words}
    times = [time for word in result.words for time in (word["start_ms"], word["end_ms"])]
    assert times == sorted(times, key=lambda time: time or 0)
    assert all(1 / len(texts) <= share <= 1 for share in agreement(result))
    assert result.signals is not None
    assert 0 < (result.signals["vote_agreement"] or 0) <= 1


@given(st.lists(WORDS, min_size=2, max_size=4))
def test_the_order_of_the_texts_decides_nothing_where_confidences_differ(words: list[list[str]]) -> None:
    texts = [text(one, 0.5 + number / 8) for number, one in enumerate(words)]
    assert all(elected(list(order)) == elected(texts) for order in permutations(texts))


def test_a_lost_vote_is_not_counted() -> None:
    ballot = Ballot(Future(), 3, text(["one"]))
    assert ballot.cast(2, None) is None
    result = ballot.cast(1, text(["one"]))
    assert result is not None
    assert result.signals is not None
    assert result.signals["votes"] == 2


def test_the_first_vote_has_the_noise_of_a_run_without_votes() -> None:
    assert noise.row_keys("sound", 3) == noise.row_keys("sound", 3, 0) == (480271666, 138252648)
    assert len({noise.row_keys("sound", seed, vote) for seed in range(4) for vote in range(8)}) == 32


DENOISE = DenoiseConfig(max_steps=10, entropy_bound=2.0, confidence_threshold=0.2)
COUNT = 8


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(3)


@pytest.fixture(scope="module")
def segments() -> list[Segment]:
    return [noise_segment(n, (None, *LANGUAGES)[n % 7], seconds=0.1 + 0.9 * n / COUNT) for n in range(COUNT)]


def transcribe(model: AsrModel, segments: list[Segment], *, slots: int = 3, **denoise: Any) -> list[SegmentResult]:
    engine = Engine(model, DENOISE.model_copy(update=denoise), slots=slots, prefill_batch=2)
    results = engine.transcribe(segments)
    engine.close()
    return results


@pytest.fixture(scope="module")
def once(model: AsrModel, segments: list[Segment]) -> list[SegmentResult]:
    return transcribe(model, segments)


def test_segments_that_are_sure_enough_are_not_touched(
    model: AsrModel, segments: list[Segment], once: list[SegmentResult]
) -> None:
    assert transcribe(model, segments, votes=4, votes_below=0.0) == once
    assert all("votes" not in (result.signals or {}) for result in once)
    middle = sorted(result.confidence or 0 for result in once)[COUNT // 2]
    mixed = transcribe(model, segments, votes=4, votes_below=middle)
    for result, before in zip(mixed, once, strict=True):
        if (before.confidence or 0) < middle:
            assert (result.signals or {})["votes"] == 4
        else:
            assert (result.text, result.words, result.signals) == (before.text, before.words, before.signals)


def test_a_vote_is_that_of_runs_with_the_noise_of_each(model: AsrModel, segments: list[Segment]) -> None:
    """It does not depend on slots, order or neighbours."""
    wanted = transcribe(model, segments, slots=1, votes=3, votes_below=1.0)
    assert {(result.signals or {})["votes"] for result in wanted} == {3.0}
    assert any((result.signals or {})["vote_agreement"] < 1 for result in wanted)
    for slots in (4, 9):
        got = transcribe(model, segments[::-1], slots=slots, votes=3, votes_below=1.0)[::-1]
        assert [one.text for one in got] == [one.text for one in wanted]
        assert [agreement(one) for one in got] == [agreement(one) for one in wanted]


def test_an_idle_engine_and_a_closing_one_count_all_votes(model: AsrModel, segments: list[Segment]) -> None:
    engine = Engine(model, DENOISE.model_copy(update={"votes": 3, "votes_below": 1.0}), slots=2)
    assert (engine.submit(segments[3]).result(60).signals or {})["votes"] == 3
    futures = [engine.submit(segment) for segment in segments]
    engine.close()
    assert [(future.result(0).signals or {})["votes"] for future in futures] == [3.0] * COUNT
