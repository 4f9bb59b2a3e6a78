"""Confidence of words and segments: it counts the text only and is in [0, 1] for any tokens."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.model.denoise.confidence import Sound, result, words_of
from pipeline.model.denoise.ctc import Hypothesis
from pipeline.model.denoise.signals import FinalCanvas
from pipeline.model.new_model import EOS, PAD, train_tokenizer
from pipeline.schemas import SegmentResult

TOKENIZER = train_tokenizer(["guten morgen", "hello yes", "yes hello morgen"] * 5, 400)
VOCAB = TOKENIZER.get_vocab_size()


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


def spelled(text: str) -> list[int]:
    """The byte tokens that spell a text."""
    return [TOKENIZER.get_vocab()[f"<0x{byte:02X}>"] for byte in text.encode()]


def canvas(tokens: list[int], probability: list[float], entropy: list[float] | None = None) -> FinalCanvas:
    size = len(tokens)
    return FinalCanvas(tokens, probability, entropy or [0.0] * size, list(range(1, size + 1)), [1] * size, steps=9)


def of(final: FinalCanvas, tokenizer: Tokenizer = TOKENIZER) -> SegmentResult:
    return result(final, None, tokenizer, eos={EOS}, vocab_size=VOCAB)


def words(tokens: list[int], probability: list[float]) -> list[tuple[str, float]]:
    return [(str(w["text"]), float(w["confidence"])) for w in words_of(tokens, probability, None, TOKENIZER)]


def test_the_end_token_tail_is_excluded() -> None:
    tokens = [*ids("yes hello"), EOS, EOS, *ids("morgen"), EOS]
    spoken = len(ids("yes hello"))
    tail = len(tokens) - spoken
    entropy = [0.5] * spoken + [5.0] * tail
    answer = of(canvas(tokens, [0.9] * spoken + [0.01] * tail, entropy))
    assert answer.text == "yes hello"
    assert answer.confidence == pytest.approx(0.9)
    assert answer.signals == {
        "token_probability_mean": pytest.approx(0.9),
        "token_probability_min": pytest.approx(0.9),
        "entropy_mean": pytest.approx(0.5 / math.log(VOCAB)),
        "entropy_max": pytest.approx(0.5 / math.log(VOCAB)),
        "first_stable_step_mean": pytest.approx((1 + spoken) / 2),
        "revisions": float(spoken),
        "early_distance": None,
        "ctc_score": None,
        "ctc_disagreement": None,
        "repeats_removed": None,
    }
    assert (answer.overflow, answer.steps, answer.canvas_length) == (False, 9, len(tokens))
    assert answer.canvas_fill == pytest.approx(spoken / len(tokens))


def test_a_canvas_without_an_end_token_overflows() -> None:
    tokens = ids("yes hello")
    answer = of(canvas(tokens, [0.5] * len(tokens)))
    assert answer.overflow
    assert answer.canvas_fill == 1.0
    assert answer.text == "yes hello"


def test_any_of_several_end_tokens_ends_the_text() -> None:
    tokens = [*ids("yes"), 5, *ids("hello"), EOS]
    answer = result(canvas(tokens, [0.5] * len(tokens)), None, TOKENIZER, eos={EOS, 5}, vocab_size=VOCAB)
    assert answer.text == "yes"


def test_empty_text_has_the_confidence_of_its_end_token() -> None:
    answer = of(canvas([EOS, EOS, EOS, EOS], [0.7, 0.1, 0.1, 0.1], [0.3, 9.0, 9.0, 9.0]))
    assert (answer.text, answer.words, answer.canvas_fill, answer.overflow) == ("", [], 0.0, False)
    assert answer.confidence == pytest.approx(0.7)
    assert answer.signals is not None
    assert answer.signals["entropy_max"] == pytest.approx(0.3 / math.log(VOCAB))


def test_a_word_has_the_lowest_probability_of_its_tokens_and_the_utterance_the_mean_of_its_words() -> None:
    yes, hello = ids("yes"), ids("hell")
    assert len(hello) > 1  # the word is spelled by several tokens
    tokens = yes + hello
    probability = [0.8] * len(yes) + [0.9] * (len(hello) - 1) + [0.2]
    assert words(tokens, probability) == [("yes", 0.8), ("hell", 0.2)]
    answer = of(canvas([*tokens, EOS], [*probability, 0.99]))
    assert answer.confidence == pytest.approx(0.5)


def test_words_are_those_of_the_text() -> None:
    tokens = ids("guten morgen hello")
    assert [word for word, _ in words(tokens, [0.5] * len(tokens))] == ["guten", "morgen", "hello"]


def test_han_characters_are_words() -> None:
    tokenizer = train_tokenizer(["一 二 三", "你好 ok"] * 5, 350)
    tokens = list(tokenizer.encode("你好 ok三", add_special_tokens=False).ids)
    found = words_of(tokens, [0.5] * len(tokens), None, tokenizer)
    assert [word["text"] for word in found] == ["你", "好", "ok", "三"]


@pytest.mark.parametrize("lowest", [0, 1, 2])
def test_a_character_of_byte_tokens_counts_every_byte(lowest: int) -> None:
    probability = [0.9, 0.9, 0.9]
    probability[lowest] = 0.1
    assert words(spelled("好"), probability) == [("好", 0.1)]
    assert words(ids("yes") + spelled("好"), [0.8] * len(ids("yes")) + probability) == [("yes", 0.8), ("好", 0.1)]


def test_characters_of_one_run_of_bytes_share_its_lowest_probability() -> None:
    """The tokenizer reads a run as a whole: while its last character is incomplete, it reads none of it."""
    assert words(spelled("你好"), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]) == [("你", 0.4), ("好", 0.4)]
    assert words(spelled("é") + ids("yes"), [0.3, 0.6] + [0.9] * len(ids("yes"))) == [("é", 0.3), ("yes", 0.9)]


def test_broken_bytes_do_not_lower_the_words_around_them() -> None:
    yes = ids("yes")
    tokens = yes + spelled("好")[:2] + yes
    found = words(tokens, [0.9] * len(yes) + [0.1, 0.2] + [0.8] * len(yes))
    assert found == [("yes��", 0.1), ("yes", 0.8)]


class Decoder:
    """A tokenizer that counts the tokens it turns into text. whole: it calls every token a byte, so no run ends."""

    def __init__(self, whole: bool) -> None:
        self.whole, self.decoded = whole, 0

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        self.decoded += len(tokens)
        return str(TOKENIZER.decode(tokens, skip_special_tokens=skip_special_tokens))

    def id_to_token(self, token: int) -> str | None:
        return "<0x00>" if self.whole else TOKENIZER.id_to_token(token)


TOKENS = st.one_of(st.integers(0, VOCAB - 1), st.sampled_from(spelled("你好é\xff") + ids("yes hello")))


@given(tokens=st.lists(TOKENS, max_size=30), data=st.data())
@settings(max_examples=300, deadline=None)
def test_words_in_parts_are_those_of_all_tokens_at_once(tokens: list[int], data: st.DataObject) -> None:
    probability = [data.draw(st.floats(0, 1)) for _ in tokens]
    parts, whole = (words_of(tokens, probability, None, Decoder(whole)) for whole in (False, True))  # type: ignore[arg-type]
    assert parts == whole


def test_the_words_of_a_long_text_take_work_by_its_length() -> None:
    tokens = ids("guten morgen hello yes ") * 60
    decoder = Decoder(whole=False)
    words_of(tokens, [0.5] * len(tokens), None, decoder)  # type: ignore[arg-type]
    assert decoder.decoded <= 8 * len(tokens)


def test_words_have_times_where_ctc_can_align_them() -> None:
    yes, hello = ids("yes"), ids("hell")
    spans = [(2 * i, 2 * i + 1) for i in range(len(yes + hello))]
    sound = Sound(bytes(2 * 16 * 160 * 2 * len(spans)), 160)
    first, second = words_of(yes + hello, [0.5] * len(spans), spans, TOKENIZER, sound)
    assert 0 <= first["start_ms"] <= first["end_ms"] <= second["start_ms"] <= second["end_ms"]  # type: ignore[operator]
    assert words_of(yes, [0.5] * len(yes), None, TOKENIZER, sound)[0]["start_ms"] is None


def test_characters_of_one_run_of_bytes_share_its_time() -> None:
    found = words_of(spelled("你好"), [0.5] * 6, [(1, 3)] * 6, TOKENIZER, Sound(bytes(2 * 16 * 400), 100))
    assert found[0]["end_ms"] == found[1]["start_ms"]
    assert found[0]["start_ms"] < found[0]["end_ms"] < found[1]["end_ms"]  # type: ignore[operator]


def test_ctc_tells_how_far_its_own_text_is_away() -> None:
    tokens = [*ids("yes hello"), EOS]
    heard = Hypothesis("yes morgen", -0.5, [(i, i) for i in range(len(tokens) - 1)])
    answer = result(canvas(tokens, [0.9] * len(tokens)), heard, TOKENIZER, eos={EOS}, vocab_size=VOCAB)
    assert answer.signals is not None
    assert answer.signals["ctc_score"] == -0.5
    assert answer.signals["ctc_disagreement"] == pytest.approx(6 / 10)  # hello -> morgen: all six letters
    assert answer.confidence == pytest.approx((0.9 * math.exp(-0.5)) ** 0.5)  # the geometric mean of both
    assert [word["confidence"] for word in answer.words] == [0.9, 0.9]
    unaligned = result(
        canvas(tokens, [0.9] * len(tokens)),
        Hypothesis("yes morgen", None, None),
        TOKENIZER,
        eos={EOS},
        vocab_size=VOCAB,
    )
    assert unaligned.confidence == pytest.approx(0.9 * (1 - 6 / 10))  # CTC agrees with four letters of ten


def test_a_text_of_which_ctc_has_heard_nothing_has_no_confidence() -> None:
    """Whether it is invented, or speech has been taken for silence."""
    spoken = [*ids("yes"), EOS]
    invented = result(
        canvas(spoken, [0.9] * len(spoken)), Hypothesis("", None, None), TOKENIZER, eos={EOS}, vocab_size=VOCAB
    )
    missed = result(canvas([EOS], [0.9]), Hypothesis("yes", None, None), TOKENIZER, eos={EOS}, vocab_size=VOCAB)
    silence = result(canvas([EOS], [0.9]), Hypothesis("", None, None), TOKENIZER, eos={EOS}, vocab_size=VOCAB)
    assert [invented.confidence, missed.confidence, silence.confidence] == [0.0, 0.0, 0.9]


def test_special_tokens_in_the_text_are_not_read() -> None:
    answer = of(canvas([PAD, *ids("yes"), PAD, EOS], [0.1] + [0.9] * len(ids("yes")) + [0.1, 0.9]))
    assert answer.text == "yes"
    assert [(word["text"], word["confidence"]) for word in answer.words] == [("yes", 0.9)]


TOKEN = st.one_of(st.integers(0, VOCAB - 1), st.sampled_from([EOS, PAD, *spelled("好é🙂 a")]))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(st.tuples(TOKEN, st.floats(0, 1), st.floats(0, 12)), min_size=1, max_size=16))
def test_everything_is_in_range_for_any_canvas(entries: list[tuple[int, float, float]]) -> None:
    tokens, probability, entropy = (list(column) for column in zip(*entries, strict=True))
    answer = of(canvas(tokens, probability, entropy))
    assert answer.text is not None
    assert "".join(str(word["text"]) for word in answer.words) == "".join(answer.text.split())
    assert answer.confidence is not None
    assert 0 <= answer.confidence <= 1
    spoken = probability[: tokens.index(EOS)] if EOS in tokens else probability
    assert all(float(word["confidence"]) in spoken for word in answer.words)
    assert answer.signals is not None
    signals = [v for k, v in answer.signals.items() if k.startswith(("token", "entropy")) and v is not None]
    assert len(signals) == 4
    assert all(0 <= value <= 1 for value in signals)
    assert answer.overflow == (EOS not in tokens)
    assert 0 <= answer.canvas_fill <= 1
