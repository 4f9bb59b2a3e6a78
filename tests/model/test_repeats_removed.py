"""`denoise.remove_repeats`: repetitions leave the text, its words, its signals; what was said twice stays."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
import soundfile
from tokenizers import Tokenizer

from pipeline.config import DenoiseConfig
from pipeline.evaluation.score import char_counts
from pipeline.model.denoise import confidence
from pipeline.model.denoise.confidence import without_repeats
from pipeline.model.denoise.engine import Engine
from pipeline.model.denoise.signals import FinalCanvas
from pipeline.model.files import checkpoint
from pipeline.model.files.layout import ASSETS
from pipeline.model.new_model import EOS, train_tokenizer
from pipeline.schemas import Segment, SegmentResult

TOKENIZER = train_tokenizer(["guten morgen", "hello yes", "yes hello morgen", "谢谢 谢谢"] * 5, 420)


def ids(text: str, tokenizer: Tokenizer = TOKENIZER) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def cleaned(tokens: list[int], hypothesis: str) -> tuple[str, int]:
    kept = without_repeats(tokens, hypothesis, TOKENIZER)
    return str(TOKENIZER.decode([tokens[position] for position in kept.positions])).strip(), kept.removed


def test_the_tokens_of_a_loop_leave_and_their_words_are_counted() -> None:
    assert cleaned(ids("yes hello hello hello morgen"), "yes helo morgen") == ("yes hello morgen", 2)
    assert cleaned(ids("yes hello hello hello morgen"), "yes helo hello morgen") == ("yes hello hello morgen", 1)
    assert cleaned(ids("yes yes"), "yes yes") == ("yes yes", 0)
    assert cleaned([], "yes") == ("", 0)


def test_a_space_that_is_a_token_leaves_with_its_word() -> None:
    space = TOKENIZER.token_to_id("\u2581")
    tokens = [*ids("yes"), space, *ids("hello"), space, *ids("hello"), space, *ids("morgen")]
    text, removed = cleaned(tokens, "yes hello morgen")
    assert (text.split(), removed) == (["yes", "hello", "morgen"], 1)
    assert text.count(" ") < str(TOKENIZER.decode(tokens)).strip().count(" ")


def test_a_word_that_shares_its_token_with_one_that_stays_is_not_removed() -> None:
    both = ids("谢谢")
    assert len(both) == 1  # two words, one token
    assert cleaned(both * 3, "谢谢") == ("谢谢", 4)
    assert cleaned(both * 2, "谢谢谢")[1] == 0


def test_result_counts_only_what_stays_and_measures_the_whole_canvas() -> None:
    tokens = [*ids("yes"), *ids("hello"), *ids("hello"), EOS, EOS]
    first, copy = len(ids("yes hello")), len(ids("hello"))
    probability = [0.9] * first + [0.1] * copy + [0.99] * 2
    size = len(tokens)
    canvas = FinalCanvas(tokens, probability, [0.0] * size, [1] * first + [7] * copy + [1] * 2, [0] * size, steps=3)
    kept = without_repeats(tokens[: first + copy], "yes hello", TOKENIZER)
    answer = confidence.result(canvas, None, TOKENIZER, eos={EOS}, vocab_size=420, kept=kept)
    assert answer.text == "yes hello"
    assert [word["text"] for word in answer.words] == ["yes", "hello"]
    assert answer.confidence == pytest.approx(0.9)
    assert answer.signals is not None
    assert answer.signals["repeats_removed"] == 1.0
    assert answer.signals["token_probability_min"] == pytest.approx(0.9)
    assert answer.signals["first_stable_step_mean"] == 1.0
    assert (answer.canvas_length, answer.canvas_fill) == (size, pytest.approx((first + copy) / size))


def doubled_and_others() -> list[tuple[str, Segment]]:
    """Recordings of the evaluation set: every one with a doubled Han character, and one of each other language."""
    found = []
    with tarfile.open(ASSETS / "evaluation" / "self.tar") as archive:
        files = {member.name: member for member in archive}

        def read(name: str) -> bytes:
            file = archive.extractfile(files[name])
            assert file is not None
            return file.read()

        for name in files:
            if not name.endswith(".json"):
                continue
            about = json.loads(read(name))
            doubled = any(pair in about["text"] for pair in ("妈妈", "爸爸", "哥哥"))
            if doubled or (name.endswith("000.json") and about["language"] != "zh"):
                samples, rate = soundfile.read(io.BytesIO(read(name.replace(".json", ".opus"))), dtype="int16")
                assert rate == 16_000
                found.append((about["text"], Segment(name, about["language"], samples.astype("<i2").tobytes())))
    return found


def test_the_engine_keeps_what_is_said_twice_and_counts_what_it_removes() -> None:
    """With the embedded model's own CTC, in six languages."""
    recordings = doubled_and_others()
    assert {segment.language for _, segment in recordings} == {"en", "de", "fr", "es", "hi", "zh"}
    model = checkpoint.load("tiny")

    def answers(*, remove: bool) -> list[SegmentResult]:
        engine = Engine(model, DenoiseConfig(remove_repeats=remove), slots=10)
        try:
            return engine.transcribe([segment for _, segment in recordings])
        finally:
            engine.close()

    for (text, _), plain, without in zip(recordings, answers(remove=False), answers(remove=True), strict=True):
        assert plain.text is not None
        assert without.text is not None
        assert plain.signals is not None
        assert without.signals is not None
        assert plain.signals["repeats_removed"] is None
        removed = without.signals["repeats_removed"]
        assert removed == len(plain.words) - len(without.words)
        assert (removed == 0) == (plain.text == without.text)
        for pair in ("妈妈", "爸爸", "哥哥"):
            assert pair not in text or (pair in without.text) == (pair in plain.text)
        assert char_counts(text, without.text).errors <= char_counts(text, plain.text).errors
