"""INT8 weights: near the exact ones, half the memory, tied as before, and the engine transcribes with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config import DenoiseConfig
from pipeline.model import memory, quantisation, recogniser
from pipeline.model.files import checkpoint, layout
from pipeline.model.quantisation import Int8Weight
from pipeline.model.recogniser import AsrModel
from tests.model.test_checkpoint import texts
from tests.model.test_full_size import tokenizer
from tests.model.test_lora import SPEC, passes
from tests.support.allocations import Allocations
from tests.support.small_model import hearing_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    checkpoint.save(hearing_model(5, lora=SPEC), path, dtype=torch.float32)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_is_within_half_a_level(dtype: torch.dtype) -> None:
    weight = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
    weight[1, 2] = 0
    stored = Int8Weight(torch.empty(3, 5, 64, dtype=torch.int8), torch.empty(3, 5, 1, dtype=dtype))
    stored.copy_(weight)
    back = stored.values.float() * stored.scale.float()
    level = weight.abs().amax(-1, keepdim=True) / 127
    assert ((back - weight).abs() <= 0.51 * level * (1 if dtype == torch.float32 else 2)).all()
    assert (back[1, 2] == 0).all()


def test_a_quantised_model_says_nearly_the_same(saved: Path) -> None:
    exact, small = checkpoint.load(str(saved)), checkpoint.load(str(saved), quantization="int8")
    (own, decoded), (near, near_decoded) = passes(exact), passes(small)
    for one, other in zip([*own, decoded], [*near, near_decoded], strict=True):
        assert (one - other).square().mean() < 0.01 * one.square().mean()
        assert not torch.equal(one, other)
    assert all(text is not None for text in texts(small))


def test_layers_are_int8_and_everything_else_is_not(saved: Path) -> None:
    loaded = checkpoint.load(str(saved), quantization="int8", dtype=torch.bfloat16)
    state, tied = recogniser.backbone_state(loaded.backbone)
    packed = {name.split(".", 4)[-1] for name, weight in state.items() if isinstance(weight, Int8Weight)}
    assert packed == {
        *(f"self_attn.{kind}_proj.weight" for kind in "qkvo"),
        *(f"mlp.{kind}_proj.weight" for kind in ("gate", "up", "down")),
        "experts.gate_up_proj",
        "experts.down_proj",
    }
    assert isinstance(state["model.decoder.embed_tokens.weight"], torch.Tensor)
    exact, exact_tied = recogniser.backbone_state(hearing_model(5).backbone)
    assert state.keys() == exact.keys()
    assert tied == exact_tied
    with pytest.raises(ValueError, match="quantised"):
        checkpoint.save(loaded, saved / "again")


def test_both_phases_share_the_packed_weights(saved: Path) -> None:
    backbone = checkpoint.load(str(saved), quantization="int8").backbone
    for one, other in zip(backbone.model.encoder.language_model.layers, backbone.model.decoder.layers, strict=True):
        assert one.experts.down_proj_int8.data_ptr() == other.experts.down_proj_int8.data_ptr()
        assert one.self_attn.q_proj.base.weight_int8.data_ptr() == other.self_attn.q_proj.base.weight_int8.data_ptr()


def test_loading_packs_tensor_by_tensor() -> None:
    with Allocations() as made:
        loaded = checkpoint.load("tiny", quantization="int8")
    largest = max(weight.nbytes for weight in loaded.parameters())
    assert made.peak <= 1.1 * sum(weight.nbytes for weight in loaded.parameters()) + 3 * largest


def test_the_full_size_fits_a_48_gb_gpu() -> None:
    with torch.device("meta"):
        model = AsrModel(layout.read_config(layout.ASSETS / layout.FULL_SIZE), tokenizer())
    denoise = DenoiseConfig()
    exact = memory.estimate(model, denoise, slots=32, dtype=torch.bfloat16)
    quantisation.quantise(model.backbone)
    small = memory.estimate(model, denoise, slots=32, dtype=torch.bfloat16)
    assert 0.5 < small.weights / exact.weights < 0.54
    assert small.total < 44 * memory.GIB
