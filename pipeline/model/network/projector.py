"""From encoder frames to audio vectors in the backbone's embedding space."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """features_BFD: [batch, frames, input_dim]. Returns [batch, slots_for(frames), output_dim].

    Linear, then log2(subsample) convolutions (kernel 3, stride 2), each with GELU; then Linear and LayerNorm. Full
    size: 768 -> 1280, subsample 8, -> 2816: 19,346,688 parameters. Source: arXiv 2607.13013. With `final_norm` False
    there is no LayerNorm.
    """

    def __init__(self, *, input_dim: int, hidden: int, subsample: int, output_dim: int, final_norm: bool) -> None:
        super().__init__()
        if subsample & (subsample - 1) or subsample < 1:
            raise ValueError(f"subsample must be a power of two, not {subsample}")
        self.input = nn.Linear(input_dim, hidden)
        convolutions = subsample.bit_length() - 1
        self.convs = nn.ModuleList(nn.Conv1d(hidden, hidden, 3, stride=2, padding=1) for _ in range(convolutions))
        self.output = nn.Linear(hidden, output_dim)
        self.norm = nn.LayerNorm(output_dim) if final_norm else nn.Identity()

    def forward(self, features_BFD: Tensor) -> Tensor:
        x = F.gelu(self.input(features_BFD)).transpose(1, 2)
        for conv in self.convs:
            x = F.gelu(conv(x))
        return self.norm(self.output(x.transpose(1, 2)))
