"""Whisper's log-mel spectrogram, computed in torch on the model's device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from pipeline.model.positions import HOP
from pipeline.schemas import SAMPLE_RATE

N_FFT = 400  # 25 ms


class LogMel(nn.Module):
    """samples_BT: float32 [batch, window samples], zero-padded. Returns [batch, mels, samples / 160].

    Source: openai/whisper, audio.py. A test compares it with transformers' WhisperFeatureExtractor. The lowest value is
    the row's maximum minus 8, so a row does not depend on the other rows of the batch.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, mels: int) -> None:
        super().__init__()
        filters = mel_filter_bank(1 + N_FFT // 2, mels, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters).float().T.contiguous(), persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        spectrum = torch.stft(samples_BT, N_FFT, HOP, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs() ** 2  # Whisper drops the last frame
        log_mel = (self.filters @ power).clamp(min=1e-10).log10()
        floor = log_mel.amax(dim=(1, 2), keepdim=True) - 8.0
        return (torch.maximum(log_mel, floor) + 4.0) / 4.0
