"""Speech probability of every 32 ms of audio: the Silero model of the `silero-vad` package, on one thread."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

# It would tell its maker of every process, and keep an id of the machine in the home directory.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

FRAME_SAMPLES = 512  # 32 ms at 16 kHz
CONTEXT_SAMPLES = 64  # of the frame before, in front of each frame
FRAMES_PER_CALL = 256  # 8.2 s: any number gives the same bits, this one was the fastest
STATE_SHAPE = (1, 1, 128)


class VoiceActivity:
    """The model is read from the installed package: nothing is downloaded.

    Of its files the sequence model was the fastest, measured on one core: 540 times real time, against 260 for the
    frame-by-frame ONNX model (same bits) and 80 for TorchScript.
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # the file has initializers that nobody uses, each worth a warning
        self.session = onnxruntime.InferenceSession(
            str(_model_file()), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """blocks: float32 [samples] of one recording at 16 kHz, cut anywhere, which changes nothing in the result.

        Returns float32 [ceil(samples / 512)] in [0, 1]; the last frame is filled up with zeros.
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
    """float32 [FRAMES_PER_CALL, FRAME_SAMPLES] each; the last one may be shorter and ends with zeros."""
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


def _model_file() -> Path:
    """Found without importing the package: its import loads torch and sets torch's threads for the whole process."""
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("silero-vad is not installed: its model file is needed for segment.vad")
    return Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
