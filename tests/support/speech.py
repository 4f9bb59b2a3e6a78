"""Speech for the tests, spoken by espeak-ng."""

from __future__ import annotations

import functools
import io
import subprocess

import numpy as np
import soundfile
import soxr

from tests.support.speech_engines import install_espeak


@functools.cache
def spoken(voice: str, text: str) -> np.ndarray:
    """float32 [samples] at 16 kHz, without espeak's silence at both ends. Not to be modified."""
    install_espeak()
    done = subprocess.run(["espeak-ng", "-v", voice, "--stdout", text], capture_output=True, check=True)
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return soxr.resample(samples[loud[0] : loud[-1]], rate, 16_000).astype(np.float32)
