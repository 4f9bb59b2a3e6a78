"""DiffusionGemma as two calls: `prefill` turns a prompt into a KV cache, `denoise` passes over canvases with it.

Both call the modules of transformers (5.23). Its own `forward` does not fit: it takes no audio embeddings, it wants
*logits* for self-conditioning, and it always applies the whole vocabulary head. `denoise` does what
DiffusionGemmaDecoderModel.forward does, with soft embeddings.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, DynamicCache

ENCODER = "model.encoder.language_model"
NUMBERS = (  # of a text config: they decide what is computed
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_activation", "rms_norm_eps", "rope_parameters", "attention_bias", "layer_types",
    "sliding_window", "final_logit_softcapping", "num_experts", "top_k_experts", "moe_intermediate_size",
)  # fmt: skip


@dataclass
class LayerKV:
    """Keys and values of one layer, each [batch, kv heads, prompt, head dim]."""

    keys: Tensor
    values: Tensor


@dataclass
class PromptKV:
    """The prompt's cache as transformers' decoder layers read it; they do not write to it."""

    layers: list[LayerKV]
    start: int | None = None  # position id of the first canvas token; None: the number of positions
    seen: Tensor | None = None  # bool [batch, prompt]: the positions that the canvas sees; None: all
    is_compileable: bool = False

    @property
    def length(self) -> int:
        """Positions that are stored."""
        return self.layers[0].keys.shape[2]

    def rows(self, index: Any) -> PromptKV:
        """Some rows, a view or a copy. index: anything that indexes dimension 0."""
        layers = [LayerKV(layer.keys[index], layer.values[index]) for layer in self.layers]
        return replace(self, layers=layers, seen=None if self.seen is None else self.seen[index])

    def repeat(self, times: int) -> PromptKV:
        """Every row `times` times: row 0 first, then row 1, and so on."""
        return self.rows(torch.arange(len(self.layers[0].keys)).repeat_interleave(times))

    def cut(self, length: int) -> PromptKV:
        """The first `length` positions that are stored. The canvas starts where it started."""
        layers = [LayerKV(layer.keys[:, :, :length], layer.values[:, :, :length]) for layer in self.layers]
        return replace(self, layers=layers, seen=None if self.seen is None else self.seen[:, :length])


def build(config: dict[str, Any]) -> DiffusionGemmaForBlockDiffusion:
    """A backbone with random weights from a transformers config as a dict (`DiffusionGemmaConfig.to_dict`)."""
    return DiffusionGemmaForBlockDiffusion(DiffusionGemmaConfig.from_dict(config)).eval()


def differences(config: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Which numbers differ between two transformers configs, as `name: one, not the other`. Defaults count too."""
    one, two = _numbers(config), _numbers(other)
    return [f"{name}: {one[name]}, not {two[name]}" for name in NUMBERS if one[name] != two[name]]


def _numbers(config: dict[str, Any]) -> dict[str, str]:
    """NUMBERS as text. A number that differs between layers is a list with one entry per layer."""
    text: Any = DiffusionGemmaConfig.from_dict(copy.deepcopy(config)).text_config
    numbers = {}
    for name in NUMBERS:
        values = [
            json.dumps(getattr(text.per_layer_config[n], name), sort_keys=True) for n in range(len(text.layer_types))
        ]
        numbers[name] = values[0] if len(set(values)) == 1 else f"[{', '.join(values)}]"
    return numbers


def prefill(
    model: DiffusionGemmaForBlockDiffusion, embeds_BPH: Tensor, positions_BP: Tensor | None = None
) -> tuple[PromptKV, Tensor]:
    """A causal pass over a prompt of embeddings [batch, prompt, hidden].

    embeds_BPH: those of text are already scaled by sqrt(hidden). positions_BP: int64 position ids; None: 0, 1, 2 and so
    on. Returns the KV cache and the final hidden states [batch, prompt, hidden]. There is no mask: a shorter row has
    its padding at the end, where a causal pass does not see it.
    """
    cache = DynamicCache(config=model.config.get_text_config())
    output = model.model.encoder.language_model(
        inputs_embeds=embeds_BPH, position_ids=positions_BP, past_key_values=cache
    )
    layers = [LayerKV(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr, arg-type]
    return PromptKV(layers), output.last_hidden_state


def embed(model: DiffusionGemmaForBlockDiffusion, tokens: Tensor) -> Tensor:
    """Embeddings of tokens, scaled by sqrt(hidden), for the prompt and the canvas."""
    embedded: Tensor = model.model.decoder.embed_tokens(tokens)
    return embedded


def at(values_BPH: Tensor, places_BK: Tensor) -> Tensor:
    """The values at some places of each row: [batch, K, hidden]. places_BK: int64."""
    return values_BPH.gather(1, places_BK[..., None].expand(-1, -1, values_BPH.shape[2]))


def denoise(model: DiffusionGemmaForBlockDiffusion, canvas_BC: Tensor, soft_BCH: Tensor, prompt: PromptKV) -> Tensor:
    """One bidirectional pass over canvases. Returns final hidden states [batch, canvas, hidden], before the lm_head.

    canvas_BC: int64 tokens. soft_BCH: `softmax(logits / T) @ embeddings` of the last step, not scaled; zeros in the
    first step.
    """
    decoder = model.model.decoder
    embeds = decoder.embed_tokens(canvas_BC)
    hidden = decoder.self_conditioning(embeds, soft_BCH * decoder.embed_tokens.embed_scale.to(embeds.dtype))
    start = prompt.length if prompt.start is None else prompt.start
    mask = None
    if prompt.seen is not None:  # [batch, 1, canvas, prompt + canvas]; a canvas sees all of itself
        mask = F.pad(prompt.seen, (0, canvas_BC.shape[1]), value=True)[:, None, None].expand(
            -1, 1, canvas_BC.shape[1], -1
        )
    positions = torch.arange(start, start + canvas_BC.shape[1], device=canvas_BC.device)[None]
    rotary = {kind: decoder.rotary_emb(hidden, positions, kind) for kind in decoder.unique_layer_types}
    for index, layer in enumerate(decoder.layers):
        hidden = layer(
            hidden,
            position_embeddings=rotary[decoder.text_config.layer_types[index]],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=prompt,
        )
    normed: Tensor = decoder.norm(hidden)
    return normed


def raw_logits(model: DiffusionGemmaForBlockDiffusion, hidden: Tensor) -> Tensor:
    """Float32 logits [..., vocabulary] without the softcap: what CTC takes. For training and checks only."""
    logits: Tensor = model.lm_head(hidden).float()
    return logits


def softcapped_logits(model: DiffusionGemmaForBlockDiffusion, hidden: Tensor) -> Tensor:
    """Float32 logits [..., vocabulary] with the model's softcap. Takes much memory: for training and checks only."""
    cap = model.final_logit_softcapping
    return torch.tanh(raw_logits(model, hidden) / cap) * cap
