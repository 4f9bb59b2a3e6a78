"""The speech with new words: words that the embedded model does not know, each phrase on one side of the split."""

from __future__ import annotations

import functools
import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from tokenizers import Tokenizer

from infra.tiny import make_new_words
from infra.tiny.phrases import is_evaluation, phrase
from infra.tiny.voices import HELD_OUT_VARIANTS
from pipeline.config import LANGUAGES
from pipeline.model.files.layout import ASSETS
from tests.support.speech_engines import install_espeak

TOKENIZER = Tokenizer.from_file(str(ASSETS / "tiny" / "tokenizer.json"))


@pytest.fixture(scope="module", autouse=True)
def espeak() -> None:
    install_espeak()


def test_every_language_has_thirty_words_that_are_spelled_without_bytes() -> None:
    words = make_new_words.new_words()
    assert tuple(words) == LANGUAGES
    for language, listed in words.items():
        assert len(listed) == 30
        for word in listed:
            tokens = TOKENIZER.encode(word, add_special_tokens=False).tokens
            assert not [token for token in tokens if token.startswith("<")], (language, word)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_models_own_phrases_have_none_of_them(language: str) -> None:
    """Mandarin has no spaces: two old words side by side must not make a new one either."""
    rng = random.Random(0)
    said = "\n".join(phrase(language, rng) for _ in range(5000))
    spoken = said if language == "zh" else said.split()
    assert [word for word in make_new_words.new_words()[language] if word in spoken] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_phrase_has_a_new_word(language: str) -> None:
    rng = random.Random(0)
    words = make_new_words.new_words()[language]
    phrases = [make_new_words.new_phrase(language, rng) for _ in range(200)]
    assert all(any(word in text for word in words) for text in phrases)
    spoken = {word for text in phrases for word in words if word in text}
    assert len(spoken) == 30
    assert any(text not in words for text in phrases)


@pytest.mark.parametrize("held_out", [False, True])
def test_what_is_spoken_is_on_one_side_of_the_split(held_out: bool) -> None:
    """By voice and by text. It fits window and canvas, and old phrases are the model's own."""
    speak = functools.partial(make_new_words.rows, held_out=held_out, engines=("espeak",))
    made = [*speak("new", 1, make_new_words.new_phrase), *speak("old", 1, phrase)]
    assert [row["language"] for row in made] == [*LANGUAGES, *LANGUAGES]
    for row in made:
        assert is_evaluation(row["text"]) == held_out
        assert any(row["voice"].endswith(f"+{variant}") for variant in HELD_OUT_VARIANTS) == held_out
        assert len(TOKENIZER.encode(row["text"], add_special_tokens=False).ids) < 16
        samples, rate = soundfile.read(io.BytesIO(row["audio"]))
        assert rate == 16_000
        assert 0.3 < len(samples) / rate <= 4.8


def test_a_second_call_speaks_the_same() -> None:
    first, second = (
        list(make_new_words.rows("new", 1, make_new_words.new_phrase, held_out=True, engines=("espeak",)))
        for _ in range(2)
    )
    assert first == second


def test_files_with_another_number_of_phrases_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train/new.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([{"id": "a"}] * 12), path)
    with pytest.raises(
        SystemExit, match=r"train/new\.parquet: has 12 phrases, not 18: delete it or name a new folder$"
    ):
        make_new_words.main(tmp_path, 3)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
