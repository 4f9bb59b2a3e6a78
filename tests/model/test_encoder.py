"""The audio encoder is Whisper's, on windows of 30 s and less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.model.network.encoder import AudioEncoder
from pipeline.schemas import SAMPLE_RATE


def encoder(window_seconds: float) -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(d_model=16, layers=2, heads=2, ffn=32, mels=80, window_seconds=window_seconds).eval()


def samples(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(size=round(seconds * SAMPLE_RATE)).astype(np.float32) * 0.1


def test_a_30_s_window_gives_what_transformers_encoder_gives() -> None:
    config = WhisperConfig(d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=80)
    torch.manual_seed(1)
    stock = WhisperEncoder(config).eval()
    ours = encoder(30)
    ours.load_whisper(stock.state_dict())
    features = WhisperFeatureExtractor()(samples(30), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    with torch.no_grad():
        expected = stock(features).last_hidden_state
    got = ours(torch.from_numpy(samples(30))[None])
    assert got.shape == (1, 1500, 16)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_short_window_has_the_first_positions_of_the_30_s_table() -> None:
    long, short = encoder(30), encoder(2)
    state = {name: tensor + 0.5 for name, tensor in long.whisper.state_dict().items()}
    short.load_whisper(state)
    assert torch.equal(short.whisper.embed_positions.weight, state["embed_positions.weight"][:100])
    assert torch.equal(short.whisper.conv1.weight, state["conv1.weight"])
    assert len(state["embed_positions.weight"]) == 1500  # the caller's tensors are left as they are
    assert short(torch.from_numpy(samples(2))[None]).shape == (1, 100, 16)


def test_weights_that_do_not_fit_are_refused() -> None:
    state = encoder(30).whisper.state_dict()
    del state["conv1.weight"]
    with pytest.raises(RuntimeError, match=r"conv1\.weight"):
        encoder(2).load_whisper(state)


def test_a_table_shorter_than_the_window_is_refused() -> None:
    with pytest.raises(RuntimeError, match="embed_positions"):
        encoder(4).load_whisper(encoder(2).whisper.state_dict())


def test_no_gradient_reaches_the_frozen_encoder() -> None:
    assert not encoder(2)(torch.from_numpy(samples(2))[None]).requires_grad


def test_bfloat16_weights_take_float32_samples() -> None:
    exact, half = encoder(2), encoder(2)
    half.whisper.bfloat16()
    got = half(torch.from_numpy(samples(2))[None])
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), exact(torch.from_numpy(samples(2))[None]), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("window_seconds", [0, 30.5])
def test_windows_whisper_cannot_hear_are_refused(window_seconds: float) -> None:
    with pytest.raises(ValueError, match="window_seconds"):
        encoder(window_seconds)
