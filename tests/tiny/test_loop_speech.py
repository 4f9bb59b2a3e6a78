"""The archive of the loop: which recordings are defective, what its metadata says of them, and the held-out set."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from infra.tiny import loop_speech
from infra.tiny.phrases import is_evaluation, vocabulary
from infra.tiny.voices import HELD_OUT_VARIANTS, TRAINING_VARIANTS
from tests.support.speech_engines import install_espeak

LANGUAGES = ("en", "es")
Rows = list[tuple[dict[str, Any], np.ndarray]]


@pytest.fixture(scope="module", autouse=True)
def espeak() -> None:
    install_espeak()


@pytest.fixture(scope="module")
def speech() -> Callable[..., Iterator[tuple[dict[str, Any], np.ndarray]]]:
    return partial(loop_speech.recordings, "archive", LANGUAGES, seed=0, engines=("espeak",))


def test_the_share_of_defects_is_met_with_as_many_of_each() -> None:
    found = Counter(loop_speech.kinds(200, 0.3, random.Random(0)))
    assert found == {"good": 140} | dict.fromkeys(loop_speech.DEFECTS, 15)
    assert set(loop_speech.kinds(5, 0.0, random.Random(0))) == {"good"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_phrases_are_of_few_words_and_on_one_side_of_the_split(language: str) -> None:
    table, rng = vocabulary(language), random.Random(0)
    allowed = {word for name in loop_speech.LISTS for item in table.lists[name] for word in item.split()}
    for held_out in (False, True):
        texts = [loop_speech.phrase(language, rng, held_out=held_out) for _ in range(50)]
        assert {word for text in texts for word in text.split()} <= allowed
        assert {is_evaluation(text) for text in texts} == {held_out}


def test_metadata_says_what_the_archive_believes_and_what_was_said(speech: Callable[..., Rows]) -> None:
    made = list(speech(8, defects=1.0))
    assert Counter((about["language"], about["kind"]) for about, _ in made) == {
        (language, kind): 2 for language in LANGUAGES for kind in loop_speech.DEFECTS
    }
    for about, samples in made:
        own = {
            word for items in vocabulary(about["language"]).lists.values() for item in items for word in item.split()
        }
        known = set(about["text"].split()) & own
        assert known == (set(about["text"].split()) if about["kind"] in ("noisy", "cut") else set()), about
        assert about["speaker"].rpartition("+")[2] in TRAINING_VARIANTS
        assert 0 < len(samples) <= loop_speech.MAX_SECONDS * 16_000


def test_a_cut_recording_is_the_middle_of_a_good_one() -> None:
    whole, part = (
        maker("en", random.Random(3), ("espeak",)) for maker in (loop_speech.MAKERS["good"], loop_speech.MAKERS["cut"])
    )
    assert whole[:2] == part[:2]
    low, high = loop_speech.CUT_SHARE
    assert low <= len(part[2]) / len(whole[2]) <= high
    start = (len(whole[2]) - len(part[2])) // 2
    assert np.array_equal(part[2], whole[2][start : start + len(part[2])])


def test_held_out_speech_is_good_and_of_other_voices_and_phrases(speech: Callable[..., Rows]) -> None:
    made = [about for about, _ in speech(6, defects=0.0, held_out=True)]
    assert {about["kind"] for about in made} == {"good"}
    assert {about["speaker"] for about in made} <= set(HELD_OUT_VARIANTS)
    assert all(is_evaluation(about["text"]) for about in made)
    assert len({(about["language"], about["text"]) for about in made}) == 12


def test_a_folder_is_written_once(speech: Callable[..., Rows], tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    loop_speech.write(folder, speech(2, defects=0.0))
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == ["en-00000.flac", "en-00001.flac", "es-00000.flac", "es-00001.flac"]
    for line, (about, samples) in zip(lines, speech(2, defects=0.0), strict=True):
        assert line == about
        read, rate = soundfile.read(folder / line["file_name"], dtype="float32")
        assert rate == 16_000
        assert np.allclose(read, samples, atol=1e-4)
    loop_speech.write(folder, iter(()))
    assert len(list(folder.glob("*.flac"))) == 4
