"""The probability of speech: right for speech and silence, the same for any blocks, without traces on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pipeline.audio.voice_activity import FRAME_SAMPLES, FRAMES_PER_CALL, VoiceActivity, model_file
from tests.support.speech import spoken


@pytest.fixture(scope="module")
def voice_activity() -> VoiceActivity:
    return VoiceActivity()


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Two sentences with 1.5 s of silence before, between and after them."""
    silence = np.zeros(24_000, np.float32)
    return np.concatenate(
        [silence, spoken("en-us", "good morning to all of you"), silence, spoken("de", "guten Tag"), silence]
    )


def test_speech_is_probable_and_silence_is_not(voice_activity: VoiceActivity, speech: np.ndarray) -> None:
    probabilities = voice_activity([speech])
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (-(-len(speech) // FRAME_SAMPLES),)
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1
    assert probabilities[:40].max() < 0.2
    assert np.mean(probabilities[50:80]) > 0.8


@pytest.mark.parametrize("block", [1_000, FRAME_SAMPLES, 65_536, FRAME_SAMPLES * FRAMES_PER_CALL])
def test_blocks_change_nothing(voice_activity: VoiceActivity, speech: np.ndarray, block: int) -> None:
    long = np.tile(speech, 3)
    blocks = [long[at : at + block] for at in range(0, len(long), block)]
    assert np.array_equal(voice_activity(blocks), voice_activity([long]))


def test_a_recording_does_not_depend_on_the_one_before(voice_activity: VoiceActivity, speech: np.ndarray) -> None:
    first = voice_activity([speech])
    voice_activity([spoken("fr-fr", "bonjour tout le monde")])
    assert np.array_equal(voice_activity([speech]), first)


def test_the_result_is_that_of_the_model_fed_frame_by_frame(voice_activity: VoiceActivity, speech: np.ndarray) -> None:
    """The package's main model, as its own OnnxWrapper runs it."""
    session = onnxruntime.InferenceSession(
        model_file().with_name("silero_vad.onnx"), providers=["CPUExecutionProvider"]
    )
    state, context, expected = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    long = np.tile(speech, 4)
    assert len(long) > 2 * FRAMES_PER_CALL * FRAME_SAMPLES
    for at in range(0, len(long), FRAME_SAMPLES):
        frame = np.zeros(FRAME_SAMPLES, np.float32)
        samples = long[at : at + FRAME_SAMPLES]
        frame[: len(samples)] = samples
        inputs = {"input": np.concatenate([context, frame])[None], "state": state, "sr": np.array(16_000)}
        probability, state = session.run(None, inputs)
        expected.append(probability[0, 0])
        context = frame[-64:]
    assert np.abs(voice_activity([long]) - np.array(expected)).max() < 1e-5


@pytest.mark.parametrize("blocks", [[], [np.empty(0, np.float32)]])
def test_a_recording_without_samples_has_no_frames(voice_activity: VoiceActivity, blocks: list[np.ndarray]) -> None:
    assert voice_activity(blocks).shape == (0,)


def test_one_sample_is_one_frame(voice_activity: VoiceActivity) -> None:
    assert voice_activity([np.ones(1, np.float32)]).shape == (1,)


def test_loading_leaves_nothing_in_the_home_directory(tmp_path: Path) -> None:
    """By default ONNX Runtime stores an id of the machine there, and a queue of reports to its vendor."""
    clean = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    script = "from pipeline.audio.voice_activity import VoiceActivity; VoiceActivity()"
    subprocess.run([sys.executable, "-c", script], env=clean | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_loading_does_not_import_torch() -> None:
    """Importing silero_vad would load torch and set its threads to one for the whole process."""
    script = "import sys, pipeline.audio.voice_activity as v; v.VoiceActivity(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert done.stderr == ""
