"""Give a projector more channels: it computes the same as before, until it is trained on."""

from __future__ import annotations

import torch

from pipeline.model.recogniser import AsrModel


def widened(model: AsrModel, hidden: int, seed: int) -> AsrModel:
    """Put the weights of `model` into a model whose projector has `hidden` channels, more than before.

    Old channels keep their weights and take nothing from new ones. New channels take random shares of all, drawn from
    the seed (arXiv 1511.05641 copies channels instead).
    """
    old = model.config.projector.hidden
    projector = model.config.projector.model_copy(update={"hidden": hidden})
    torch.manual_seed(seed)
    made = AsrModel(model.config.model_copy(update={"projector": projector}), model.tokenizer)
    known, state = model.state_dict(), made.state_dict()
    for name, tensor in state.items():
        if known[name].shape == tensor.shape:
            tensor.copy_(known[name])
            continue
        rows = known[name].shape[0]
        if tensor.ndim > 1 and known[name].shape[1] == old:
            tensor[:rows, old:] = 0.0
        tensor[(slice(rows), *map(slice, known[name].shape[1:]))] = known[name]
    made.load_state_dict(state)
    return made
