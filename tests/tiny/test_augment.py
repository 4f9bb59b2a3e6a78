"""The augmentation: levels, bands and lengths measured on tones; one generator decides everything."""

from __future__ import annotations

import numpy as np
import pytest

from infra.tiny.augment import (
    CLEAN_EDGE_SECONDS,
    LEVEL_DBFS,
    PEAK,
    SPEECH_DBFS,
    augment,
    clean,
    reverberate,
    telephone,
    to_level,
    trim,
)
from pipeline.schemas import SAMPLE_RATE


def tone(hertz: float, seconds: float = 1.0, rate: int = SAMPLE_RATE, amplitude: float = 0.3) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def dbfs(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2)))


def test_trim_cuts_silence_and_keeps_a_margin() -> None:
    silence = np.zeros(SAMPLE_RATE, np.float32)
    cut = trim(np.concatenate([silence, tone(200.0), silence]), SAMPLE_RATE, margin_seconds=0.02)
    assert len(cut) == pytest.approx(1.04 * SAMPLE_RATE, abs=20)


def test_clean_speech_is_at_one_level_and_rate() -> None:
    samples = clean(tone(200.0, seconds=2.0, rate=22_050, amplitude=0.01), 22_050)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx((2.0 + 2 * CLEAN_EDGE_SECONDS) * SAMPLE_RATE, abs=50)
    assert dbfs(samples) == pytest.approx(SPEECH_DBFS, abs=0.01)
    assert not samples[: round(CLEAN_EDGE_SECONDS * SAMPLE_RATE)].any()


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_augmented_speech_stays_in_its_ranges(rate: int) -> None:
    speech = tone(200.0, rate=rate)
    for seed in range(60):
        samples = augment(speech, rate, np.random.default_rng(seed))
        assert samples.dtype == np.float32
        assert np.abs(samples).max() <= PEAK + 1e-6
        assert LEVEL_DBFS[0] - 0.01 <= dbfs(samples) <= LEVEL_DBFS[1] + 0.01
        assert 1 / 1.1 + 0.1 - 0.01 <= len(samples) / SAMPLE_RATE <= 1 / 0.9 + 1.0 + 0.01


def test_the_generator_alone_decides_the_augmentation() -> None:
    speech = tone(200.0)
    outputs = [augment(speech, SAMPLE_RATE, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert len(outputs[0]) != len(outputs[2]) or not np.array_equal(outputs[0], outputs[2])


def test_about_half_of_the_speech_is_noisy() -> None:
    """The silence before the speech is zero unless noise was added."""
    outputs = [augment(tone(200.0), SAMPLE_RATE, np.random.default_rng(seed)) for seed in range(200)]
    noisy = sum(float(np.abs(samples[:400]).mean()) > 1e-5 for samples in outputs)
    assert 0.37 < noisy / len(outputs) < 0.65


def test_level_is_bounded_by_the_peak_and_silence_stays_silence() -> None:
    assert np.abs(to_level(tone(200.0), 0.0)).max() == pytest.approx(PEAK)
    assert not to_level(np.zeros(100, np.float32), -20.0).any()


def test_telephone_keeps_its_band_alone() -> None:
    for hertz, kept in ((100.0, 0.0), (1000.0, 1.0), (5000.0, 0.0)):
        before, after = tone(hertz), telephone(tone(hertz))
        assert np.sum(after**2) / np.sum(before**2) == pytest.approx(kept, abs=1e-3)


def test_reverberation_keeps_the_direct_sound_and_dies_out() -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[100] = 1.0
    wet = reverberate(click, 0.3, np.random.default_rng(0))
    assert len(wet) == len(click)
    assert wet[100] == pytest.approx(1.0, abs=1e-4)
    assert np.abs(wet[:100]).max() < 1e-5
    early, late = wet[101 : 101 + 800], wet[100 + 4000 : 100 + 4800]
    assert dbfs(early) - dbfs(late) > 30  # 0.25 s of 0.3 s: about 45 dB
