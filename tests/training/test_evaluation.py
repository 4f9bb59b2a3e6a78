"""Error rates of the model in training: in words, for Mandarin in characters, and with the audio shuffled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.config import DenoiseConfig
from pipeline.evaluation.result import Counts
from pipeline.model.denoise.engine import Engine
from pipeline.model.recogniser import AsrModel
from pipeline.training.evaluation import Answer, Evaluated, SetRates, evaluate, score
from pipeline.training.parallel import Group
from tests.support.small_model import hearing_model, noise_segment

TEXTS = ["ein roter Hund", "zwei", "我要茶", "drei Katzen"]
LANGUAGES: list[str | None] = ["de", "de", "zh", None]


def answers(*texts: str) -> dict[int, Answer]:
    """Answers by row; row n took n + 1 steps."""
    return {row: Answer(text, row + 1) for row, text in enumerate(texts)}


def test_words_and_characters_are_counted_by_language() -> None:
    made = score(TEXTS, answers("Ein roter Hut!", "zwei", "我要水", "drei"), LANGUAGES)
    assert made.languages == {"unknown": Counts(1, 0, 1, 0), "de": Counts(3, 1, 0, 0), "zh": Counts(2, 1, 0, 0)}
    assert made.counts == Counts(6, 2, 1, 0)
    assert made.steps_mean == 2.5


def test_the_first_texts_of_every_language_are_kept_for_a_person_to_read() -> None:
    texts = ["eins", "one", "zwei", "drei"]
    made = score(texts, answers("eins", "won", "zwei", "drei"), ["de", "en", "de", "de"])
    assert made.samples == (("de", "eins", "eins"), ("de", "zwei", "zwei"), ("en", "one", "won"))


def test_texts_are_compared_as_the_caller_makes_them_comparable() -> None:
    """jobs.evaluate writes "twenty one" as 21; the factory of the embedded model counts two words."""
    texts, given = ["twenty one"], answers("twenty two")
    assert score(texts, given, ["en"]).counts == Counts(0, 1)
    assert score(texts, given, ["en"], normal=lambda text, _: text).counts == Counts(1, 1)


def test_shuffled_compares_with_the_answer_to_the_next_recording_of_the_language() -> None:
    made = score(["eins", "zwei", "drei", "one"], answers("eins", "zwei", "drei", "one"), ["de"] * 3 + ["en"])
    assert (made.counts.errors, made.shuffled.errors, made.shuffled.units) == (0, 3, 3)  # English has no other


def test_shuffled_never_compares_with_the_answer_to_the_same_text() -> None:
    """One sentence by many voices, or digits: a good model is right about the next recording too."""
    texts = ["eins", "eins", "zwei", "eins"]
    made = score(texts, answers(*texts), ["de"] * 4)
    assert (made.counts.errors, made.shuffled.errors, made.shuffled.units) == (0, 4, 4)


@pytest.mark.parametrize(("shuffled", "grounded"), [(8, True), (3, True), (2, False), (0, False)])
def test_a_model_is_grounded_where_shuffled_audio_is_worse_by_the_margin(shuffled: int, grounded: bool) -> None:
    rates = SetRates(Counts(10, 0, 0, 0), Counts(10 - shuffled, shuffled, 0, 0), {})
    assert Evaluated({"a": rates}).grounded(0.3) == grounded


def test_the_rate_of_all_sets_is_errors_over_units() -> None:
    sets = {"a": SetRates(Counts(1, 1), Counts(), {}), "b": SetRates(Counts(97, 1), Counts(), {})}
    assert Evaluated(sets).rate == pytest.approx(0.02)


class Recordings:
    """Recordings of noise, like `examples.Examples`."""

    def __init__(self, numbers: range, texts: list[str]) -> None:
        self.segments = [noise_segment(number) for number in numbers]
        self.keys, self.texts = [segment.key for segment in self.segments], texts
        self.languages: list[str | None] = [None] * len(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def pcm(self, row: int) -> bytes:
        return self.segments[row].pcm


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(5)


def test_rates_are_those_of_the_production_engine(model: AsrModel) -> None:
    """The references are its own answers, except for one word in one of them."""
    denoise = DenoiseConfig(max_steps=4)
    segments = [noise_segment(number) for number in range(4)]
    engine = Engine(model, denoise, slots=2)
    texts = [result.text or "" for result in engine.transcribe(segments)]
    engine.close()
    sets: Any = {"right": Recordings(range(4), texts), "other": Recordings(range(2), ["qqq", texts[1]])}
    made = evaluate(model, sets, denoise, slots=2, group=Group(torch.device("cpu")))
    assert made.sets["right"].counts.errors == 0
    assert made.sets["right"].counts.units > 4
    assert made.sets["other"].counts.errors >= 1
    assert made.grounded(0.2)
