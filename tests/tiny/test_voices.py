"""The voices: held-out ones are never trained on, missing engines are named, speech is speech."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from infra.tiny.phrases import vocabulary
from infra.tiny.voices import (
    ENGINES,
    ESPEAK_ACCENTS,
    TRAINING_VARIANTS,
    EngineError,
    Voice,
    check_engines,
    pick_voice,
    speak,
    voices,
)
from pipeline.config import LANGUAGES, ConfigError
from tests.support.speech_engines import install_espeak

HELD_OUT = {"Annie", "Gene2", "Hugo", "Lee", "Mario", "klatt3", "steph2", "quincy", "kal16", "en-GB"}


@pytest.fixture(scope="module", autouse=True)
def espeak() -> None:
    install_espeak()


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_voices_are_never_trained_on(language: str) -> None:
    sides = [voices(language, held_out=side) for side in (False, True)]
    trained, held_out = ({v.name.split("+")[-1] for vs in side.values() for v in vs} for side in sides)
    assert not trained & HELD_OUT
    assert held_out <= HELD_OUT
    assert {"Annie", "Gene2", "Hugo", "Lee", "Mario", "klatt3", "steph2", "quincy"} <= held_out


def test_whispers_croaks_and_robots_are_left_out() -> None:
    assert not [name for name in TRAINING_VARIANTS if name.lower().startswith(("whisper", "croak", "robosoft", "uni"))]
    assert "Demonic" not in TRAINING_VARIANTS
    assert len(set(TRAINING_VARIANTS)) == len(TRAINING_VARIANTS) >= 75


@pytest.mark.parametrize(("language", "others"), [("en", 0.5), ("de", 0.4), ("fr", 0.4), ("hi", 0.25), ("zh", 0.0)])
def test_engines_are_mixed_by_their_shares(language: str, others: float) -> None:
    rng = random.Random(0)
    counts = Counter(pick_voice(language, rng, held_out=False).engine for _ in range(4000))
    assert 1 - counts["espeak"] / 4000 == pytest.approx(others, abs=0.03)


def test_a_choice_of_engines_without_a_voice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="flite have no voice for 'zh'"):
        pick_voice("zh", random.Random(0), held_out=False, engines=("flite",))


def test_a_missing_engine_is_one_line_naming_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        check_engines(LANGUAGES, held_out=False, engines=ENGINES)
    assert all(name in str(caught.value) for name in ("espeak-ng", "libttspico-utils", "flite"))
    assert "\n" not in str(caught.value)


def test_engines_that_are_not_asked_for_are_not_needed() -> None:
    check_engines(LANGUAGES, held_out=False, engines=("espeak",))


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_word_is_spelled_and_no_two_sound_alike(language: str) -> None:
    """espeak-ng's plain Mandarin voice spells Han in English letters, marked (en). A homophone could not be learned."""
    accent = ESPEAK_ACCENTS[language][0]
    items = sorted({item for items in vocabulary(language).lists.values() for item in items})
    paragraphs = "\n\n".join(items)
    done = subprocess.run(
        ["espeak-ng", "-v", accent, "-qx"], input=paragraphs, capture_output=True, text=True, check=True
    )
    sounds = [line.replace("'", "").strip() for line in done.stdout.splitlines() if line.strip()]
    assert not [item for item, sound in zip(items, sounds, strict=True) if "(en)" in sound]
    assert len(set(sounds)) == len(items)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_voice_speaks_reproducibly(language: str) -> None:
    voice = voices(language, held_out=False, engines=("espeak",))["espeak"][0]
    text = " ".join(vocabulary(language).lists["weekdays"][:3])
    first, rate = speak(voice, text, random.Random(1))
    second, _ = speak(voice, text, random.Random(1))
    assert first.dtype == np.float32
    assert 0.7 < len(first) / rate < 5
    np.testing.assert_array_equal(first, second)


def test_an_espeak_without_a_voice_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An espeak-ng that is too old speaks an unknown voice as English and exits 0."""
    listing = subprocess.run(["espeak-ng", "--voices"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "voices").write_text("".join(x for x in listing.splitlines(True) if "cmn-latn" not in x))
    old = tmp_path / "espeak-ng"
    old.write_text(
        f'#!/bin/sh\n[ "$1" = --voices ] && exec cat {tmp_path}/voices\nexec {shutil.which("espeak-ng")} "$@"\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    check_engines(("hi",), held_out=False, engines=("espeak",))
    with pytest.raises(ConfigError, match="no voice cmn-latn-pinyin"):
        check_engines(("zh",), held_out=False, engines=("espeak",))


def test_silence_and_a_failing_program_are_engine_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="silence"):
        speak(Voice("espeak", "en-us"), " ", random.Random(0))
    (tmp_path / "espeak-ng").write_text("#!/bin/sh\necho no memory >&2; exit 3\n")
    (tmp_path / "espeak-ng").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(EngineError, match="espeak-ng: exit 3: no memory"):
        speak(Voice("espeak", "en-us"), "hello", random.Random(0))
