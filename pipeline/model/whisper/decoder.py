"""Whisper's text decoder over transformers' modules, with caches of fixed size.

Shapes: B segments, W hypotheses of each, T new tokens, S positions of the encoder, H heads, E width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import WhisperForConditionalGeneration

Pair = tuple[Tensor, Tensor]  # keys and values


@dataclass(slots=True)
class Caches:
    """Keys and values of a batch. `cross` of the audio, once per segment; `own` of the tokens, per hypothesis.

    cross: for each layer [B, H, S, E / H]. own: for each layer [B x W, H, most tokens, E / H]. length: tokens in `own`.
    """

    cross: list[Pair]
    own: list[Pair]
    length: int = 0
    width: int = 1

    def fork(self, rows: list[int], width: int = 1) -> Caches:
        """A copy for some of the segments, for `width` hypotheses each. `self` has one each, and stays as it is."""
        index = torch.tensor(rows, device=self.cross[0][0].device)
        everything = len(rows) == len(self.cross[0][0])
        cross = self.cross if everything else [(k[index], v[index]) for k, v in self.cross]
        hypotheses = index.repeat_interleave(width)
        return Caches(cross, [(k[hypotheses], v[hypotheses]) for k, v in self.own], self.length, width)

    def keep(self, rows: list[int]) -> Caches:
        """The caches of some of the segments, all hypotheses of each."""
        index = torch.tensor(rows, device=self.cross[0][0].device)
        hypotheses = (index[:, None] * self.width + torch.arange(self.width, device=index.device)).flatten()
        cross = [(k[index], v[index]) for k, v in self.cross]
        return replace(self, cross=cross, own=[(k[hypotheses], v[hypotheses]) for k, v in self.own])

    def reorder(self, parents: list[int]) -> None:
        """Hypothesis n becomes a copy of hypothesis parents[n], counted over all segments."""
        if parents == list(range(len(parents))):
            return
        index = torch.tensor(parents, device=self.own[0][0].device)
        for pair in self.own:
            for cache in pair:
                cache[:, :, : self.length] = cache[index, :, : self.length]


class Decoder:
    """The decoder of a loaded model."""

    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        self.model, self.layers = model, model.model.decoder.layers
        self.heads: int = model.config.decoder_attention_heads

    def open(self, encoded_BSE: Tensor, length: int) -> Caches:
        """Caches for segments with the encoder's output, for up to `length` tokens."""
        cross = []
        for layer in self.layers:
            attention = layer.encoder_attn
            keys, values = attention.k_proj(encoded_BSE), attention.v_proj(encoded_BSE)
            cross.append((self._split(keys).contiguous(), self._split(values).contiguous()))
        batch, heads, _, size = cross[0][0].shape
        own = [(k.new_zeros(batch, heads, length, size), k.new_zeros(batch, heads, length, size)) for k, _ in cross]
        return Caches(cross, own)

    def logits(self, caches: Caches, tokens: list[list[int]]) -> Tensor:
        """float32 [B x W, V] behind the last of the new tokens, which are then in the caches."""
        hidden = self.hidden(caches, tokens)[:, -1]
        return nn.functional.linear(hidden, self.model.proj_out.weight).float()

    def hidden(
        self,
        caches: Caches,
        tokens: list[list[int]],
        looks: dict[int, list[int]] | None = None,
        seen: list[Tensor] | None = None,
    ) -> Tensor:
        """The decoder's output [B x W, T, E] for new tokens, which are then in the caches.

        looks: heads by layer. seen: gets, for each of those layers, how strongly these heads attend to each position of
        the encoder, before the softmax: [B, heads, W x T, S].
        """
        decoder = self.model.model.decoder
        new = torch.tensor(tokens, device=decoder.embed_positions.weight.device)
        rows, count = new.shape
        start, end = caches.length, caches.length + count
        x = decoder.embed_tokens(new) * decoder.embed_scale + decoder.embed_positions.weight[start:end]
        mask = None if count == 1 else torch.ones(count, end, dtype=torch.bool, device=x.device).tril(start)
        for number, layer in enumerate(self.layers):
            attention, (keys, values) = layer.self_attn, caches.own[number]
            y = layer.self_attn_layer_norm(x)
            keys[:, :, start:end] = self._split(attention.k_proj(y))
            values[:, :, start:end] = self._split(attention.v_proj(y))
            query = self._split(attention.q_proj(y))
            y = scaled_dot_product_attention(query, keys[:, :, :end], values[:, :, :end], attn_mask=mask)
            x = x + attention.out_proj(self._join(y))
            attention, (keys, values) = layer.encoder_attn, caches.cross[number]
            y = layer.encoder_attn_layer_norm(x)
            # All hypotheses of a segment are queries of one attention: its audio is read once for all of them.
            query = self._split(attention.q_proj(y).view(len(keys), caches.width * count, -1))
            query = query * query.shape[-1] ** -0.5
            if looks and seen is not None and number in looks:
                chosen = looks[number]
                seen.append(query[:, chosen].float() @ keys[:, chosen].float().transpose(-1, -2))
            y = self._heard(query, keys, values)
            x = x + attention.out_proj(self._join(y).view(rows, count, -1))
            y = layer.final_layer_norm(x)
            x = x + layer.fc2(layer.activation_fn(layer.fc1(y)))
        caches.length = end
        hidden: Tensor = decoder.layer_norm(x)
        return hidden

    def _split(self, x_BTE: Tensor) -> Tensor:
        """[B, H, T, E / H]."""
        batch, count, width = x_BTE.shape
        return x_BTE.view(batch, count, self.heads, width // self.heads).transpose(1, 2)

    @staticmethod
    def _heard(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention to the audio. query: scaled. On a CPU torch's fused one takes 2 to 5 times as long in bfloat16."""
        if keys.is_cpu:
            return (query @ keys.transpose(-1, -2)).softmax(-1) @ values
        return scaled_dot_product_attention(query, keys, values, scale=1.0)

    @staticmethod
    def _join(x_BHTD: Tensor) -> Tensor:
        return x_BHTD.transpose(1, 2).flatten(2)
