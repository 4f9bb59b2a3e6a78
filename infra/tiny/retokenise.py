"""Give a model another tokenizer: tokens of both keep their embedding, new ones start from those of their pieces."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.model.files.layout import AsrConfig
from pipeline.model.recogniser import AsrModel

EMBEDDINGS = ("model.encoder.language_model.embed_tokens", "model.decoder.embed_tokens", "lm_head")  # tied: one tensor


def retokenised(model: AsrModel, tokenizer: Tokenizer, config: AsrConfig) -> AsrModel:
    """Put the weights of `model` into a new model of `config`, which differs in its vocabulary alone.

    A new token starts as the mean of the embeddings of the old tokens that spell it. Raises RuntimeError where another
    weight has another shape.
    """
    made = AsrModel(config, tokenizer)
    state = model.state_dict()
    rows = embeddings(model.backbone.lm_head.weight.detach(), model.tokenizer, tokenizer)
    made.load_state_dict(state | {f"backbone.{name}.weight": rows for name in EMBEDDINGS})
    return made


def embeddings(known_VH: Tensor, old: Tokenizer, new: Tokenizer) -> Tensor:
    """The embeddings of `new` [new vocabulary, hidden] from those of `old`, known_VH [old vocabulary, hidden]."""
    rows = torch.zeros(new.get_vocab_size(), known_VH.shape[1], dtype=known_VH.dtype)
    for text, number in new.get_vocab().items():
        token = old.token_to_id(text)
        pieces = [token] if token is not None else [piece.id for piece in old.model.tokenize(text)]
        rows[number] = known_VH[pieces].mean(0)
    return rows
