"""Gradient checkpointing around a shared prompt cache: layers run again, their keys and values are not doubled.

transformers checkpoints the decoder's layers, which only read the cache. It does not checkpoint the encoder's layers:
they would append to the cache a second time when they run again. Here each encoder layer writes into a box of its own.
What it wrote is an output of the checkpointed call, like the hidden states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from pipeline.model.network.backbone import LayerKV, PromptKV


def enable(model: DiffusionGemmaForBlockDiffusion) -> None:
    """From now on the decoder's layers are checkpointed whenever the model is in training mode."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()  # the line above enables it for reentrant checkpointing, which this is not


def prefill(
    model: DiffusionGemmaForBlockDiffusion, embeds_BPH: Tensor, positions_BP: Tensor | None = None
) -> tuple[PromptKV, Tensor]:
    """Do what `backbone.prefill` does, with the same values and gradients and in less memory.

    Only input, keys and values of each layer are kept for the backward pass. All keys and values stay, also those that
    a sliding window would drop.
    """
    encoder = model.model.encoder.language_model
    places = torch.arange(embeds_BPH.shape[1], device=embeds_BPH.device)[None]
    positions = places if positions_BP is None else positions_BP
    asked: dict[str, Any] = {
        "config": encoder.config,
        "inputs_embeds": embeds_BPH,
        "attention_mask": None,
        "past_key_values": None,
        "position_ids": places,  # not those of the rows: a gap would look like two sequences in one row
    }
    masks = {
        "full_attention": create_causal_mask(**asked),
        "sliding_attention": create_sliding_window_causal_mask(**asked),
    }
    rotary = {kind: encoder.rotary_emb(embeds_BPH, positions, kind) for kind in encoder.unique_layer_types}
    hidden, layers = embeds_BPH, []
    for index, layer in enumerate(encoder.layers):
        kind = encoder.config.layer_types[index]
        hidden, keys, values = checkpoint(
            _layer, layer, hidden, rotary[kind], masks[kind], positions, use_reentrant=False
        )
        layers.append(LayerKV(keys, values))
    return PromptKV(layers), encoder.norm(hidden)


class _Box:
    """The cache of one layer for one call."""

    def update(self, keys: Tensor, values: Tensor, _layer: int, **_: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = keys, values
        return keys, values


def _layer(
    layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    box = _Box()
    out = layer(hidden, position_embeddings=rotary, attention_mask=mask, position_ids=positions, past_key_values=box)
    return out, box.keys, box.values
