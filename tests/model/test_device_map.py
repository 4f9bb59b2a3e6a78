"""Layers over several GPUs: computed on the meta device, and run on the CPU as its own second device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline.config import ConfigError, DenoiseConfig, ModelConfig
from pipeline.model import device_map, memory
from pipeline.model.files import layout
from pipeline.model.memory import GIB
from pipeline.model.recogniser import AsrModel
from tests.model.test_full_size import tokenizer
from tests.model.test_lora import SPEC, passes
from tests.support.small_model import hearing_model

DENOISE = DenoiseConfig()


@pytest.fixture(scope="module")
def full() -> AsrModel:
    with torch.device("meta"):
        return AsrModel(layout.read_config(layout.ASSETS / layout.FULL_SIZE), tokenizer())


def cut(full: AsrModel, *gibs: float, slots: int = 32) -> device_map.Split:
    needed = memory.estimate(full, DENOISE, slots=slots, dtype=torch.bfloat16)
    return device_map.split(full, needed, [round(size * GIB) for size in gibs], torch.bfloat16)


@pytest.mark.parametrize("gibs", [(40, 40), (48, 32), (24, 24, 24), (32, 32, 80)])
def test_layers_are_runs_that_fit_every_gpu(full: AsrModel, gibs: tuple[float, ...]) -> None:
    found = cut(full, *gibs)
    assert list(found.layers) == sorted(found.layers)
    assert len(found.layers) == 30
    assert all(size <= free * GIB for size, free in zip(found.bytes, gibs, strict=True))
    shares = [size / free / GIB for size, free in zip(found.bytes, gibs, strict=True)]
    assert max(shares) < min(shares) + 2 * 1.7 / min(gibs)  # one layer is 1.7 GiB


def test_all_bytes_are_counted(full: AsrModel) -> None:
    """One context and one layer's activations for every GPU after the first, everything else once."""
    needed = memory.estimate(full, DENOISE, slots=32, dtype=torch.bfloat16)
    found = cut(full, 40, 40)
    assert sum(found.bytes) == pytest.approx(needed.total + memory.CONTEXT + needed.activations, abs=100)
    assert "GPU 1" in str(found)


def test_gpus_that_are_too_small_are_one_line(full: AsrModel) -> None:
    with pytest.raises(ConfigError) as raised:
        cut(full, 24, 24)
    assert "\n" not in str(raised.value)
    assert "24.0 + 24.0 GiB" in str(raised.value)


def test_both_phases_of_a_layer_lie_together(full: AsrModel) -> None:
    layers = cut(full, 40, 40).layers
    found = device_map.places(full, layers, ["cuda:0", "cuda:1"])
    encoder, decoder = full.backbone.model.encoder.language_model.layers, full.backbone.model.decoder.layers
    for own, other, gpu in zip(encoder, decoder, layers, strict=True):
        assert found.get(own.mlp.up_proj, "cuda:0") == found.get(other.mlp.up_proj, "cuda:0") == f"cuda:{gpu}"
    owners: dict[int, set[str]] = {}
    for module in full.modules():
        for weight in module._parameters.values():
            if weight is not None:
                owners.setdefault(id(weight), set()).add(found.get(module, "cuda:0"))
    assert all(len(devices) == 1 for devices in owners.values())


def test_connected_layers_compute_the_same() -> None:
    model = hearing_model(5, lora=SPEC)
    own, decoded = passes(model)
    connected = copy.deepcopy(model)
    device_map.connect(connected, [0, 0, 1], ["cpu", "cpu"])
    again, decoded_again = passes(connected)
    assert all(torch.equal(a, b) for a, b in zip([*own, decoded], [*again, decoded_again], strict=True))


def test_what_enters_a_layer_is_moved_and_caches_are_left() -> None:
    layer, cache = nn.Identity(), object()
    tensors = torch.zeros(2), (torch.zeros(1), torch.zeros(1))
    args, kwargs = device_map._mover("meta")(
        layer, (tensors[0],), {"position": tensors[1], "cache": cache, "mask": None}
    )
    assert args[0].device.type == "meta"
    assert [tensor.device.type for tensor in kwargs["position"]] == ["meta", "meta"]
    assert kwargs["cache"] is cache
    assert kwargs["mask"] is None


def test_compiled_code_is_for_one_gpu() -> None:
    with pytest.raises(ValueError, match="one GPU"):
        ModelConfig(device_map="auto", compile=True)
