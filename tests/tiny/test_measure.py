"""Error rates are ratios of sums, by language and over all, and stand in the model card."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.tiny import measure
from infra.tiny.measure import Measurement
from infra.tiny.recipe import TrainConfig
from pipeline.config import DenoiseConfig
from pipeline.evaluation.result import Counts
from pipeline.model.denoise.engine import Engine
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import Segment, SegmentResult
from pipeline.training.evaluation import SetRates
from tests.support.small_model import hearing_model, noise_segment

#       id, language, text, what the engine answers
ROWS = [
    ("a", "en", "one two three", "one two three"),
    ("b", "zh", "你 好 世 界", "你好 世"),
    ("c", "en", "red", "red blue green"),
    ("d", "de", "ja", ""),
    ("e", "en", "yes no", "yes"),
    ("f", "zh", "一", "二"),
    ("g", "de", "guten morgen", None),
]


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(3)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus of two shards."""
    for number, rows in enumerate((ROWS[:4], ROWS[4:])):
        columns = {name: [row[i] for row in rows] for i, name in enumerate(("id", "language", "text"))}
        table = pa.table({**columns, "pcm": [noise_segment(ord(row[0]), seconds=1.4).pcm for row in rows]})
        pq.write_table(table, tmp_path / f"part-{number}.parquet")
    return tmp_path


def answering(self: Engine, segments: list[Segment]) -> list[SegmentResult]:
    """Give the answers of ROWS. The segments must fit the window."""
    assert all(len(segment.pcm) == 2 * self.model.config.window_samples for segment in segments)
    answers = {row[0]: row[3] for row in ROWS}
    languages = {row[0]: row[1] for row in ROWS}
    assert all(segment.language == languages[segment.key] for segment in segments)
    return [SegmentResult(text=answers[segment.key], steps=4 + i % 2) for i, segment in enumerate(segments)]


def test_words_are_counted_as_they_are_spoken_and_mandarin_in_characters_whatever_the_spaces() -> None:
    assert measure.as_spoken("twenty one", "en") == "twenty one"
    assert measure.as_spoken("你 好 世 界", "zh") == "你好世界"


def test_measure_sums_over_utterances_and_languages(model: AsrModel, corpus: Path) -> None:
    with mock.patch.object(Engine, "transcribe", answering):
        got = measure.measure(model, corpus, DenoiseConfig())
    assert {code: (one.errors, one.units) for code, one in got.rates.languages.items()} == {
        "en": (0 + 2 + 1, 3 + 1 + 2),
        "de": (1 + 2, 1 + 2),  # no answer counts as none of its words
        "zh": (1 + 1, 4 + 1),
    }
    assert got.utterances == {"en": 3, "zh": 2, "de": 2}
    assert (got.rates.counts.errors, got.rates.counts.units) == (3 + 3 + 2, 6 + 3 + 5)
    # every text against the answer to the next of its language, the last against the first:
    # en: 3 against "red blue green" 3, 1 against "yes" 1, 2 against "one two three" 3; de: 1 and 2; zh: 4 and 3
    assert (got.rates.shuffled.errors, got.rates.shuffled.units) == ((3 + 1 + 3) + (1 + 2) + (4 + 3), 14)
    assert got.rates.steps_mean == pytest.approx((4 * 4 + 3 * 5) / 7)


def test_measure_uses_the_production_engine(model: AsrModel, corpus: Path) -> None:
    """The model is untrained, so that hardly anything is right."""
    denoise = DenoiseConfig(max_steps=5, entropy_bound=2.0)
    got = measure.measure(model, corpus, denoise, slots=3)
    assert got.rates.counts.units == 14
    assert (got.rates.counts.rate or 0) > 0.8
    assert 1 <= got.rates.steps_mean <= 5
    assert got == measure.measure(model, corpus, denoise, slots=2)


def test_an_empty_corpus_is_an_error(model: AsrModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no utterances"):
        measure.measure(model, tmp_path, DenoiseConfig())


def test_the_card_has_the_figures_the_steps_and_the_command() -> None:
    languages = {"zh": Counts(7, 1), "en": Counts(21, 3)}
    rates = SetRates(Counts(28, 4), Counts(2, 30), languages, steps_mean=7.25)
    measurement = Measurement(rates, {"en": 10, "zh": 5})
    table = measure.table(measurement)
    assert "| English | WER | 12.5 % | 3 / 24 | 10 |" in table
    assert "| Mandarin | CER | 12.5 % | 1 / 8 | 5 |" in table
    assert "| all | WER and CER | 12.5 % | 4 / 32 | 15 |" in table
    assert "| all, audio shuffled | WER and CER | 93.8 % | 30 / 32 | 15 |" in table
    share = {"of": "work/third", "projector": 0.2, "backbone": 0.6}
    config = TrainConfig.model_validate({"seed": 7, "shares": [share, share | {"of": "tiny"}]})
    text = measure.card(measurement, config, 1234, [[1000, 1100]], "python -m infra.tiny.train --config x.yaml")
    assert table in text
    assert "\n    python -m infra.tiny.train --config x.yaml\n" in text
    for fact in (
        "1234 steps",
        "At step 1000 of 1100 its number of steps was changed",
        "15 synthesised utterances",
        "Seed 7",
        "used: 7.2",
        "mixed with 0.2 of the projector and 0.6 of the backbone of work/third; 0.2 of",
        "whisper-base",
        "MIT",
    ):
        assert fact in text, fact
    text = measure.card(measurement, TrainConfig(), 1234, [], "python -m infra.tiny.train")
    assert "Weights are the moving average, stored" in text
