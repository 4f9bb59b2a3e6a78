"""A second model on the same segments: how far it agrees, in a run with a pool for each model, or in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ComputeConfig, ConfigError, RunConfig
from pipeline.config_file import load
from pipeline.flow.bundles import as_block, rows_of
from pipeline.flow.cluster import ray_cluster
from pipeline.flow.guard import GuardedReplica, GuardedSecond
from pipeline.in_process import transcribe_here
from pipeline.model.files import checkpoint
from pipeline.model.files.layout import describe, resolve
from pipeline.model.second import agreement
from pipeline.model.stage import Replica, SecondReplica
from pipeline.output.attempts import MAX_ATTEMPTS
from pipeline.output.attempts import PREFIX as ATTEMPTS
from pipeline.planning.fingerprint import make_fingerprint
from pipeline.run import transcribe
from pipeline.schemas import PIECE_DECODED, PIECE_HALF, PIECE_RECOGNISED, to_table
from pipeline.storage.base import open_storage
from tests.model.test_model_stage import ABOUT, unit_row
from tests.support.archives import archive, arguments
from tests.support.small_model import random_model
from tests.support.small_whisper import save_whisper

RECORDINGS = 5
VOTES = ("denoise.votes=3", "denoise.votes_below=1")


@pytest.mark.parametrize(
    ("text", "other", "language", "segment", "words"),
    [
        ("Guten Morgen!", "guten morgen", "de", 1, [1, 1]),
        ("guten morgen", "guten morger", "de", 1 - 1 / 12, [1, 5 / 6]),
        ("guten - morgen", "guten morgen", "de", 1, [1, None, 1]),
        ("e mail", "email", "de", 1 - 1 / 6, [1, 1]),
        ("我要茶", "我要水。", "zh", 2 / 3, [1, 1, 0]),
        ("twenty dollars", "$20", "en", 1, None),
        ("colour", "color", "en", 1, [1]),
        ("", "", None, 1, []),
        ("", "yes", None, 0, []),
        ("yes", "", None, 0, [0]),
    ],
)
def test_texts_are_compared_as_evaluation_compares_them(
    text: str, other: str, language: str | None, segment: float, words: list[float | None] | None
) -> None:
    own = list(text) if language == "zh" else text.split()
    found = agreement(text, own, other, language)
    assert found.segment == pytest.approx(segment)
    if words is not None:
        assert found.words == pytest.approx(words)


@given(st.lists(st.text("abc", min_size=1), max_size=6), st.text("abc "))
def test_shares_are_whole_for_equal_texts_and_never_more(words: list[str], other: str) -> None:
    text = " ".join(words)
    found = agreement(text, words, other, "fr")
    assert 0 <= found.segment <= 1
    assert len(found.words) == len(words)
    assert all(share is not None and 0 <= share <= 1 for share in found.words)
    assert agreement(text, words, text, "fr").words == [1.0] * len(words)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "whisper-small")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("archive") / "in", RECORDINGS)


@pytest.fixture(scope="module")
def two_pools() -> Iterator[None]:
    """A local Ray with room for two models."""
    with ray_cluster(ComputeConfig(), pools=2):
        yield


def settings(source: Path, output: Path, model: Path, *words: str) -> RunConfig:
    return load(RunConfig, None, [*arguments(source, output, model), *words])


def rows(config: RunConfig) -> list[dict[str, Any]]:
    return list(pq.read_table(Path(config.output.uri) / "transcripts").to_pylist())


@pytest.fixture(scope="module")
def done(source: Path, whisper: Path, small_model_dir: Path, two_pools: None) -> RunConfig:
    config = settings(source, source.parent / "out", small_model_dir, f"model.second={whisper}", *VOTES)
    transcribe(config)
    return config


@pytest.mark.timeout(600)
def test_a_run_has_the_text_of_the_second_model_beside_its_own(
    done: RunConfig, source: Path, whisper: Path, small_model_dir: Path
) -> None:
    """Each text is that of this model alone, whatever its units, its batches and its process."""
    first = settings(source, source.parent / "first", small_model_dir, *VOTES, "compute.canvases=3")
    other = settings(source, source.parent / "other", whisper, "plan.unit_recordings=2")
    for config in (first, other):
        transcribe_here(config)
    assert {row["recording_id"] for row in rows(done)} == {f"r00{n}.wav" for n in range(RECORDINGS)}
    assert [row["text"] for row in rows(done)] == [row["text"] for row in rows(first)]
    for row, alone in zip(rows(done), rows(other), strict=True):  # a text loses words that the one before has too
        assert row["signals"]["second_text"].endswith(alone["text"])
    for row, alone in zip(rows(done), rows(first), strict=True):
        assert row["signals"]["votes"] == alone["signals"]["votes"] == 3
        assert row["signals"]["vote_agreement"] == pytest.approx(alone["signals"]["vote_agreement"])
        words = [word["text"] for word in row["words"]]
        found = agreement(row["text"], words, row["signals"]["second_text"], row["language"])
        assert row["signals"]["second_agreement"] == pytest.approx(found.segment)
        assert [word["signals"]["second_agreement"] for word in row["words"]] == pytest.approx(found.words)
        assert alone["signals"]["second_text"] is alone["signals"]["second_agreement"] is None


def test_without_ray_both_models_run_too(source: Path, whisper: Path, small_model_dir: Path) -> None:
    config = settings(source, source.parent / "here", small_model_dir, f"model.second={whisper}")
    transcribe_here(config)
    assert len(rows(config)) >= RECORDINGS
    assert all(row["signals"]["second_text"] is not None for row in rows(config))


def test_a_piece_that_crashes_the_second_model_keeps_its_text(
    whisper: Path, small_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.flow.guard.ReplicaMetrics", lambda *_: mock.Mock())  # no thread that drains counts
    config = settings(tmp_path, tmp_path / "out", small_model_dir, f"model.second={whisper}")
    storage = open_storage(config.output.uri)
    about = replace(ABOUT, second_languages=("en",))
    pieces = to_table([unit_row("bad", [1, 2]), unit_row("good", [3])], PIECE_DECODED)
    half = asyncio.run(GuardedReplica(config, about)(as_block(pieces)))
    for number in range(MAX_ATTEMPTS):
        storage.put(f"{ATTEMPTS}bad.0/second-killed{number}-0", b"")
    recognised = rows_of(asyncio.run(GuardedSecond(config, about)(half)))
    assert recognised.schema == PIECE_RECOGNISED
    bad, good = recognised.to_pylist()
    assert not bad["suspect"]
    assert [result["text"] is None for result in bad["results"]] == [False, False]
    assert [result["signals"]["second_text"] for result in bad["results"]] == [None, None]
    assert good["results"][0]["signals"]["second_text"] is not None


def test_a_language_that_the_second_model_does_not_know_has_no_second_text(
    whisper: Path, small_model_dir: Path
) -> None:
    """Nor has a segment without a text. Where nobody says the language, the second model detects it."""
    config = settings(Path("in"), Path("out"), small_model_dir, f"model.second={whisper}")
    first, second = Replica(config, ABOUT), SecondReplica(config, replace(ABOUT, second_languages=("de",)))
    row = unit_row("a", [1, 2, 3, 4])
    for segment, language in zip(row["segments"], ("de", "en", None, "de"), strict=True):
        segment["language"] = language
    half = asyncio.run(first(to_table([row], PIECE_DECODED)))
    assert half.schema == PIECE_HALF
    (answered,) = half.to_pylist()
    answered["results"][3] |= {"text": None, "error": "logits are not finite"}
    recognised = asyncio.run(second(to_table([answered], PIECE_HALF)))
    assert recognised.schema == PIECE_RECOGNISED
    texts = [(result["signals"] or {}).get("second_text") for result in recognised["results"].to_pylist()[0]]
    assert [text is None for text in texts] == [False, True, False, True]
    for replica in (first, second):
        replica.engine.close()


def test_a_second_model_that_is_not_there_is_named(small_model_dir: Path, tmp_path: Path) -> None:
    config = settings(Path("in"), Path("out"), small_model_dir, f"model.second={tmp_path}")
    with pytest.raises(ConfigError, match=r"^model\.second: .*: no config\.json"):
        resolve(config)


def test_both_models_must_take_a_segment_and_both_are_in_the_fingerprint(small_model_dir: Path, tmp_path: Path) -> None:
    checkpoint.save(random_model(seed=1), tmp_path)  # window 1 s, as that of the other
    wide, info = resolve(settings(Path("in"), Path("out"), Path("whisper-base"), f"model.second={tmp_path}"))
    assert info.window_seconds == 1.0
    shown = make_fingerprint(wide, weights=info.weights_hash, second=info.second_hash)
    assert shown["model.second_weights_hash"] == describe(str(tmp_path)).weights_hash != shown["model.weights_hash"]
