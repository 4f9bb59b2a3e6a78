"""Corpus synthesis: typed shards, same bytes from the same seed, resumable, separate splits, failing engines."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.tiny.phrases import is_evaluation, short_words, vocabulary
from infra.tiny.synthesis import MAX_SECONDS, SCHEMA, SHARD_PER_LANGUAGE, ShardPlan, synthesise, write_shard
from infra.tiny.voices import HELD_OUT_VARIANTS
from pipeline.config import LANGUAGES, ConfigError
from pipeline.schemas import SAMPLE_RATE
from tests.support.speech_engines import install_espeak

ESPEAK = ("espeak",)
speak_english = partial(synthesise, split="train", seed=3, workers=1, languages=("en",), engines=ESPEAK)


@pytest.fixture(scope="module", autouse=True)
def espeak() -> None:
    install_espeak()


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """The tables of a small corpus of all six languages, by split."""
    tables = {}
    for split, per_language in (("train", 12), ("evaluation", 6)):
        path = tmp_path_factory.mktemp("corpus") / f"{split}.parquet"
        write_shard(ShardPlan(path, split, 0, per_language, 3, LANGUAGES, ESPEAK))
        tables[split] = pq.read_table(path)
    return tables


def test_rows_are_typed_and_languages_take_turns(corpora: dict[str, pa.Table]) -> None:
    table = corpora["train"]
    assert table.schema.equals(SCHEMA)
    assert table["language"].to_pylist() == list(LANGUAGES) * 12
    assert len(set(table["id"].to_pylist())) == len(table) == 72
    assert sum(column.null_count for column in table.columns) == 0


def test_audio_is_audible_and_fits_the_window(corpora: dict[str, pa.Table]) -> None:
    for row in pa.concat_tables(corpora.values()).to_pylist():
        samples = np.frombuffer(row["pcm"], "<i2").astype(np.float32) / 32768
        assert len(samples) / SAMPLE_RATE == pytest.approx(row["seconds"], abs=1e-5)
        assert 0.3 < row["seconds"] <= MAX_SECONDS
        assert 20 * np.log10(np.sqrt(np.mean(samples**2))) > -37


def test_different_texts_never_share_their_audio(corpora: dict[str, pa.Table]) -> None:
    rows = pa.concat_tables(corpora.values()).to_pylist()
    assert len({row["pcm"] for row in rows}) >= len({row["text"] for row in rows})


def test_splits_share_neither_a_text_nor_a_voice(corpora: dict[str, pa.Table]) -> None:
    train, evaluation = corpora["train"], corpora["evaluation"]
    assert not any(map(is_evaluation, train["text"].to_pylist()))
    assert all(map(is_evaluation, evaluation["text"].to_pylist()))
    assert {voice.split("+")[1] for voice in evaluation["voice"].to_pylist()} <= set(HELD_OUT_VARIANTS)
    assert not {voice.split("+")[1] for voice in train["voice"].to_pylist()} & set(HELD_OUT_VARIANTS)


def test_the_evaluation_split_has_a_text_once(corpora: dict[str, pa.Table]) -> None:
    texts = corpora["evaluation"]["text"].to_pylist()
    assert len(set(texts)) == len(texts)


def test_same_seed_same_bytes_another_seed_another_corpus(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_shard(ShardPlan(tmp_path / f"{name}.parquet", "train", 0, 2, seed, ("en", "zh"), ESPEAK))
    a, b, c = (pq.read_table(tmp_path / f"{name}.parquet") for name in "abc")
    assert a.equals(b)
    assert not set(a["pcm"].to_pylist()) & set(c["pcm"].to_pylist())


def test_a_second_call_keeps_existing_shards_and_makes_missing_ones(tmp_path: Path) -> None:
    count = SHARD_PER_LANGUAGE + 2
    summary = speak_english(tmp_path, per_language=count)
    assert (summary.shards, summary.shards_kept, summary.utterances) == (2, 0, count)
    first, second = sorted(tmp_path.iterdir())
    assert (first.name, second.name) == ("part-00000.parquet", "part-00001.parquet")
    kept, content = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    again = speak_english(tmp_path, per_language=count)
    assert (again.shards, again.shards_kept, again.utterances) == (1, 1, 2)
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == content


def test_a_larger_corpus_begins_with_the_smaller_one(tmp_path: Path) -> None:
    speak_english(tmp_path, per_language=2)
    (path,) = tmp_path.iterdir()
    before = pq.read_table(path)
    speak_english(tmp_path, per_language=4)
    after = pq.read_table(path)
    assert len(after) == 4
    assert after.slice(0, 2).cast(SCHEMA).equals(before.cast(SCHEMA))


def test_shards_of_another_recipe_are_refused(tmp_path: Path) -> None:
    speak_english(tmp_path, per_language=2)
    with pytest.raises(ConfigError, match=r"part-00000\.parquet: made by another recipe \(train 0-2 seed=3"):
        speak_english(tmp_path, per_language=2, seed=4)


def test_a_share_of_the_training_utterances_is_one_word_of_one_syllable(tmp_path: Path) -> None:
    """Also "of" and "und", which no random sequence has alone. The corpora of earlier recipes stay as they are."""
    synthesise(tmp_path / "all", split="train", per_language=8, seed=3, workers=1, engines=ESPEAK, short_share=1.0)
    rows = pq.read_table(tmp_path / "all").to_pylist()
    assert all(row["text"] in short_words(row["language"]) and not is_evaluation(row["text"]) for row in rows)
    assert any(row["text"] not in vocabulary(row["language"]).others for row in rows)
    plain = ShardPlan(tmp_path, "train", 0, 8, 3, LANGUAGES, ESPEAK)
    assert "short" not in str(plain.recipe)
    with pytest.raises(ConfigError, match=r"another recipe .*short=1\.0"):
        synthesise(tmp_path / "all", split="train", per_language=8, seed=3, workers=1, engines=ESPEAK)


def test_an_engine_that_fails_now_and_then_costs_no_utterance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program named espeak-ng that fails every third text stands before the real one."""
    programs = tmp_path / "programs"
    programs.mkdir()
    flaky, real = programs / "espeak-ng", shutil.which("espeak-ng")
    flaky.write_text(
        f'#!/bin/sh\ncase "$1" in --voices*) exec {real} "$@" ;; esac\necho x >> {tmp_path}/texts\n'
        f'[ $(($(wc -l < {tmp_path}/texts) % 3)) -eq 0 ] && exit 7\nexec {real} "$@"\n'
    )
    flaky.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    summary = speak_english(tmp_path / "corpus", per_language=8)
    assert summary.utterances == 8
    assert summary.engine_failures == 4  # calls 3, 6, 9 and 12: a text with a pause in it takes two
