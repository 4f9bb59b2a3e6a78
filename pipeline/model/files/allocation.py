"""Storage for a recogniser that was built on the meta device: every weight once, in its final dtype and place."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.model.network import float8
from pipeline.model.network.features import LogMel
from pipeline.model.recogniser import AsrModel


def allocate(model: AsrModel, *, device: str, dtype: torch.dtype) -> None:
    """Allocate all weights of a model on the meta device, tied ones once, and put it into inference mode.

    The weights have no values yet. Those of FP8 modules keep their own dtypes (network/float8.py). Buffers that are
    computed, not loaded (mel filters, rotary frequencies), get their values here, in float32 whatever `dtype` is; other
    buffers get the values of a new model.
    """
    fixed = float8.parameters(model)
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    made[id(weight)] = _empty(weight, device, weight.dtype if id(weight) in fixed else dtype)
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                loaded = name not in module._non_persistent_buffers_set and buffer.is_floating_point()
                module._buffers[name] = torch.ones(buffer.shape, dtype=dtype if loaded else buffer.dtype)
    model.encoder.log_mel = LogMel(model.config.encoder.mels)
    model.backbone.initialize_weights()  # transformers computes buffers, and leaves alone what `_empty` marks
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    model.eval()


def _empty(weight: nn.Parameter, device: str, dtype: torch.dtype) -> nn.Parameter:
    """A weight of the same shape, marked as initialised so that transformers does not fill it."""
    made = nn.Parameter(torch.empty(weight.shape, device=device, dtype=dtype), requires_grad=False)
    made._is_hf_initialized = True  # type: ignore[attr-defined]
    return made
