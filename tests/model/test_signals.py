"""The signals of words and segments: what steps and CTC say, by hand, and nothing where an engine has no such thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.denoise.ctc import Hypothesis
from pipeline.model.denoise.signals import FinalCanvas, canvas_signals, ctc_agreement, word_signals
from pipeline.schemas import WORD_SIGNALS

END = 9
CANVAS = FinalCanvas(
    tokens=[1, 2, 3, END],
    probability=[0.9, 0.4, 0.8, 1.0],
    entropy=[0.0, 2.0, 1.0, 0.0],
    stable_since=[1, 4, 2, 1],
    revisions=[0, 3, 1, 0],
    steps=5,
    early=[1, 7, 3, 3],
)
HEARD = Hypothesis("goten mrgn", -1.0, [(0, 0), (1, 1), (2, 2)], [-0.1, -2.0, -0.5])


def test_a_word_has_the_signals_of_its_own_tokens() -> None:
    first, second = word_signals(
        CANVAS, [0, 1, 2], [("guten", (0, 1)), ("morgen", (2, 2))], HEARD, "guten morgen", vocab_size=10
    )
    of_other_texts = ["vote_agreement", "second_agreement"]  # which one canvas does not know
    assert [*first, *of_other_texts] == WORD_SIGNALS.names
    assert first == pytest.approx(
        {
            "token_probability_min": 0.4,
            "token_probability_mean": 0.65,
            "entropy_max": 0.868589,  # 2 nats of ln 10
            "first_stable_step": 4,
            "revisions": 3,
            "early_distance": 0.5,
            "ctc_score": -2.0,
            "ctc_agreement": 4 / 5,
        }
    )
    assert second["early_distance"] == 0
    assert second["ctc_agreement"] == pytest.approx(4 / 6)


def test_signals_that_an_engine_does_not_have_are_null() -> None:
    plain = FinalCanvas(CANVAS.tokens, CANVAS.probability, CANVAS.entropy, None, None, steps=4)
    (word,) = word_signals(plain, [0], [("guten", (0, 0))], None, "guten", vocab_size=10)
    missing = {"first_stable_step", "revisions", "early_distance", "ctc_score", "ctc_agreement"}
    assert {name for name, value in word.items() if value is None} == missing
    segment = canvas_signals(plain, [0, 1, 2], eos={END}, vocab_size=10)
    assert {name for name, value in segment.items() if value is None} == {
        *("first_stable_step_mean", "revisions", "early_distance"),
    }


def test_the_early_distance_compares_whole_texts() -> None:
    """Step 2 had 1 7 3 3 without an end, the text is 1 2 3: one token is another one, one is too many."""
    assert canvas_signals(CANVAS, [0, 1, 2], eos={END}, vocab_size=10)["early_distance"] == pytest.approx(2 / 4)


@given(st.lists(st.text("abc", min_size=1, max_size=4), max_size=6), st.text("abc ", max_size=20))
def test_the_agreement_of_ctc_is_a_share_and_whole_where_the_texts_are_equal(words: list[str], own: str) -> None:
    text = " ".join(words)
    shares = ctc_agreement(words, text, own)
    assert len(shares) == len(words)
    assert all(0 <= share <= 1 for share in shares)
    assert ctc_agreement(words, text, text) == [1.0] * len(words)
