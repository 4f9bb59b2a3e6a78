"""Give a projector more channels: it computes the same as before, until it is trained on."""

from __future__ import annotations

import torch

from pipeline.model.recogniser import AsrModel


def widened(model: AsrModel, hidden: int, seed: int) -> AsrModel:
    """Put the weights of `model` into a model whose projector has `hidden` channels, more than before.

    Old channels keep their weights and take nothing from new ones. New channels take random shares of all, drawn from
    the seed (arXiv 1511.05641 copies channels instead).
    """
    projector = model.config.projector.model_copy(update={"hidden": hidden})
    torch.manual_seed(seed)
    made = AsrModel(model.config.model_copy(update={"projector": projector}), model.tokenizer)
    state = made.state_dict()
    for name, known in model.state_dict().items():
        if known.ndim > 1:
            state[name][: known.shape[0], known.shape[1] :] = 0.0  # what old channels would take from new ones
        state[name][tuple(map(slice, known.shape))] = known
    made.load_state_dict(state)
    return made
