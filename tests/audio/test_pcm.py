"""int16 and float samples: what was 16 bits stays what it was, windows are filled with zeros."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.audio.pcm import from_pcm, to_pcm


def test_samples_of_16_bits_come_back_bit_for_bit() -> None:
    values = np.array([-32768, -32767, -1, 0, 1, 32766, 32767], np.int16)
    assert to_pcm(values.astype(np.float32) / 32768) == values.astype("<i2").tobytes()


def test_samples_out_of_range_are_clipped() -> None:
    assert np.frombuffer(to_pcm(np.array([-1.5, 1.0, 1.5], np.float32)), "<i2").tolist() == [-32768, 32767, 32767]


def test_a_window_is_padded_with_zeros_at_its_end() -> None:
    pcm = np.array([-32768, 16384, 1], "<i2").tobytes()
    assert from_pcm(pcm, 5).tolist() == [-1.0, 0.5, 1 / 32768, 0.0, 0.0]
    assert from_pcm(b"", 2).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="3 samples does not fit the model's window of 2"):
        from_pcm(pcm, 2)
