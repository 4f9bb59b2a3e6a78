"""The probability of speech in every 32 ms of audio, from the Silero model of the package `silero-vad`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

# Otherwise ONNX Runtime reports every process to its vendor and stores an id of the machine in the home directory.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

FRAME_SAMPLES = 512  # 512 / 16,000 Hz = 32 ms
CONTEXT_SAMPLES = 64  # the last samples of the previous frame, which precede each frame as the model wants it
FRAMES_PER_CALL = 256  # 256 * 32 ms = 8.2 s; any number gives the same bits, this one was the fastest
STATE_SHAPE = (1, 1, 128)  # layers, batch, hidden size of the model's LSTM


class VoiceActivity:
    """The Silero model on one thread. It is read from the installed package: nothing is downloaded.

    The package has three files of the model. The sequence model was the fastest on one core: 540 times real time,
    against 260 for the frame-by-frame ONNX model (same bits) and 80 for TorchScript.
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: the file has unused initializers, and each would give a warning
        self.session = onnxruntime.InferenceSession(
            str(model_file()), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """The probability of speech in each frame: float32 [ceil(samples / 512)] in [0, 1].

        blocks: float32 [samples] each, together one recording at 16 kHz. Where they are cut does not change the result.
        The last frame is filled with zeros.
        """
        hidden = cell = np.zeros(STATE_SHAPE, np.float32)
        context = np.zeros(CONTEXT_SAMPLES, np.float32)
        probabilities = [np.empty(0, np.float32)]
        for frames in _frames(blocks):
            inputs = np.empty((len(frames), CONTEXT_SAMPLES + FRAME_SAMPLES), np.float32)
            inputs[:, CONTEXT_SAMPLES:] = frames
            inputs[1:, :CONTEXT_SAMPLES] = frames[:-1, -CONTEXT_SAMPLES:]
            inputs[0, :CONTEXT_SAMPLES] = context
            context = frames[-1, -CONTEXT_SAMPLES:].copy()
            probability, hidden, cell = self.session.run(
                ["speech_probs", "hn", "cn"], {"input": inputs, "h": hidden, "c": cell}
            )
            probabilities.append(probability.reshape(-1))
        return np.concatenate(probabilities)


def _frames(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames of a recording: float32 [FRAMES_PER_CALL or fewer, FRAME_SAMPLES]. Zeros fill the last frame."""
    call_samples = FRAMES_PER_CALL * FRAME_SAMPLES
    rest = np.empty(0, np.float32)
    for block in blocks:
        joined = np.concatenate([rest, block]) if len(rest) else block
        whole = len(joined) // call_samples * call_samples
        for at in range(0, whole, call_samples):
            yield joined[at : at + call_samples].reshape(-1, FRAME_SAMPLES)
        rest = joined[whole:].copy()
    if len(rest):
        padded = np.zeros(-(-len(rest) // FRAME_SAMPLES) * FRAME_SAMPLES, np.float32)
        padded[: len(rest)] = rest
        yield padded.reshape(-1, FRAME_SAMPLES)


def model_file() -> Path:
    """The path of the model. Importing the package would load torch and set its threads for the whole process."""
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("segment.vad needs the model file of the package silero-vad, which is not installed")
    return Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
