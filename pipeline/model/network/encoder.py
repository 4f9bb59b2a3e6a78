"""The frozen Whisper encoder on a window of fixed length, 30 s at most."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.model.network.features import LogMel
from pipeline.model.positions import MAX_POSITIONS, POSITIONS_PER_SECOND


class AudioEncoder(nn.Module):
    """samples_BT: float32 [batch, window samples] in [-1, 1]. Returns [batch, 50 x window seconds, d_model].

    A window under 30 s uses the first position embeddings only, so a shorter window costs less.
    """

    def __init__(self, *, d_model: int, layers: int, heads: int, ffn: int, mels: int, window_seconds: float) -> None:
        super().__init__()
        positions = round(window_seconds * POSITIONS_PER_SECOND)
        if not 0 < positions <= MAX_POSITIONS:
            raise ValueError(f"window_seconds must be in (0, 30], not {window_seconds}")
        config = WhisperConfig(
            d_model=d_model,
            encoder_layers=layers,
            encoder_attention_heads=heads,
            encoder_ffn_dim=ffn,
            num_mel_bins=mels,
            max_source_positions=positions,
        )
        config._attn_implementation = "sdpa"
        self.log_mel = LogMel(mels)
        self.whisper = WhisperEncoder(config)
        self.positions = positions

    @property
    def rows(self) -> dict[str, int]:
        """How many first rows of a 30 s encoder's weight this window uses, by the weight's name."""
        return {"embed_positions.weight": self.positions}

    def load_whisper(self, state: dict[str, Tensor]) -> None:
        """Load a 30 s encoder's weights; its position table is cut to the window. Raises RuntimeError on a mismatch."""
        state = dict(state)
        state["embed_positions.weight"] = state["embed_positions.weight"][: self.positions]
        self.whisper.load_state_dict(state)

    def forward(self, samples_BT: Tensor) -> Tensor:
        return self.encode(self.log_mel(samples_BT.float()))

    def encode(self, mel_BMT: Tensor) -> Tensor:
        """Like `forward`, from log-mel features [batch, mels, 100 x window seconds]."""
        with torch.no_grad():
            hidden: Tensor = self.whisper(mel_BMT.to(self.whisper.conv1.weight.dtype)).last_hidden_state
        return hidden
