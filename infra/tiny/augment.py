"""Make synthesised speech less clean: tempo, room, telephone, noise, level and silence, all from one generator."""

from __future__ import annotations

import numpy as np
import soxr

from pipeline.schemas import SAMPLE_RATE
from pipeline.training.augment import add_noise

SPEECH_DBFS = -22.0  # RMS of clean speech
LEVEL_DBFS = (-36.0, -14.0)  # range of the augmented RMS
PEAK = 0.98
EDGE_SECONDS = (0.05, 0.5)  # silence before and after
CLEAN_EDGE_SECONDS = 0.15
TEMPO_SHARE, TEMPO = 0.6, (0.78, 1.3)  # another tempo changes pitch and formants too, like another speaker
REVERBERATION_SHARE, RT60_SECONDS = 0.06, (0.15, 0.5)
TELEPHONE_SHARE, TELEPHONE_HZ = 0.05, (300.0, 3400.0)
NOISE_SHARE, SNR_DB = 0.55, (3.0, 40.0)


def trim(samples: np.ndarray, rate: int, *, threshold: float = 0.01, margin_seconds: float = 0.02) -> np.ndarray:
    """Cut both ends where they stay below `threshold` of the peak, except a margin. float32 [samples]."""
    loud = np.flatnonzero(np.abs(samples) > threshold * np.abs(samples).max())
    if not len(loud):
        return samples
    margin = round(margin_seconds * rate)
    return samples[max(0, loud[0] - margin) : loud[-1] + 1 + margin]


def joined(first: np.ndarray, second: np.ndarray, pause_seconds: float, rate: int) -> np.ndarray:
    """Two pieces of speech with silence between them. float32 [samples]."""
    return np.concatenate([first, np.zeros(round(pause_seconds * rate), np.float32), second])


def clean(samples: np.ndarray, rate: int) -> np.ndarray:
    """Resample to 16 kHz, with SPEECH_DBFS and a little silence around: for evaluation. float32 [samples]."""
    edge = np.zeros(round(CLEAN_EDGE_SECONDS * SAMPLE_RATE), np.float32)
    speech = _resample(trim(samples, rate), rate)
    return to_level(np.concatenate([edge, speech, edge]), SPEECH_DBFS)


def augment(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Resample to 16 kHz and alter at random. float32 [samples], |x| <= PEAK; the rng state decides all of it."""
    speech = trim(samples, rate)
    tempo = rng.uniform(*TEMPO) if rng.random() < TEMPO_SHARE else 1.0
    speech = _resample(speech, rate * tempo)
    before, after = (np.zeros(round(rng.uniform(*EDGE_SECONDS) * SAMPLE_RATE), np.float32) for _ in range(2))
    signal = np.concatenate([before, speech, after])
    if rng.random() < REVERBERATION_SHARE:
        signal = reverberate(signal, rng.uniform(*RT60_SECONDS), rng)
    noisy = rng.random() < NOISE_SHARE
    if noisy:
        signal = add_noise(signal, float(np.mean(speech**2)), rng.uniform(*SNR_DB), rng)
    if rng.random() < TELEPHONE_SHARE:
        signal = telephone(signal)
    return to_level(signal, rng.uniform(*LEVEL_DBFS))


def to_level(samples: np.ndarray, dbfs: float) -> np.ndarray:
    """Scale to an RMS of `dbfs` dB relative to full scale, or to PEAK where that would clip. Silence stays silence."""
    rms, peak = float(np.sqrt(np.mean(samples**2))), float(np.abs(samples).max())
    if rms == 0.0:
        return samples.astype(np.float32)
    return (samples * min(10 ** (dbfs / 20) / rms, PEAK / peak)).astype(np.float32)


def reverberate(samples: np.ndarray, rt60_seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Add a tail of noise that decays by 60 dB in rt60_seconds to the direct sound. The length stays."""
    length = round(rt60_seconds * SAMPLE_RATE)
    decay = 10 ** (-3 * np.arange(length) / length)
    tail = rng.standard_normal(length) * decay
    tail *= rng.uniform(0.3, 0.8) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    size = len(samples) + length
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
    return wet[: len(samples)].astype(np.float32)


def telephone(samples: np.ndarray) -> np.ndarray:
    """Keep the band of a telephone line alone, 300 to 3400 Hz."""
    spectrum = np.fft.rfft(samples)
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    spectrum[(frequencies < TELEPHONE_HZ[0]) | (frequencies > TELEPHONE_HZ[1])] = 0.0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def _resample(samples: np.ndarray, rate: float) -> np.ndarray:
    return samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE)
