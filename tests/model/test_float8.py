"""FP8 modules: what they compute, with torch's products of FP8 and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint
from pipeline.model.files.layout import LoraSpec
from pipeline.model.network import backbone, float8
from pipeline.model.network.float8 import FP8, Fp8Experts, Fp8Linear, Kernels, dequantise, quantise
from pipeline.model.recogniser import AsrModel
from tests.model.test_engine import DENOISE
from tests.support import fp8_checkpoint
from tests.support.float8_products import on_the_cpu
from tests.support.small_model import hearing_model, noise_segment, random_model

NATIVE = Kernels(linear=True, experts=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp8")
    fp8_checkpoint.write(hearing_model(3), path)
    return path


def passes(model: AsrModel, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Hidden states of a prompt pass and of a denoising pass."""
    generator = torch.Generator().manual_seed(5)
    embeds, soft = (torch.randn(2, length, 64, generator=generator).to(dtype) for length in (9, 8))
    canvas = torch.randint(0, 400, (2, 8), generator=generator)
    with torch.no_grad():
        prompt, hidden = backbone.prefill(model.backbone, embeds)
        return hidden, backbone.denoise(model.backbone, canvas, soft, prompt)


def experts_with_values(kernels: Kernels) -> Fp8Experts:
    original = random_model(1).backbone.model.decoder.layers[0].experts
    made = Fp8Experts(original, kernels)
    with torch.no_grad():
        for name in ("gate_up_proj", "down_proj"):
            for value, place in zip(quantise(getattr(original, name)), (name, f"{name}_scale"), strict=True):
                getattr(made, place).copy_(value)
    return made


def routed(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states and the two experts of four that each row goes to; the last one is never chosen."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, 64, generator=generator).to(dtype)
    chosen = torch.stack([torch.randperm(3, generator=generator)[:2] for _ in range(rows)])
    return x, chosen, torch.rand(rows, 2, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_fp8_products_a_model_computes_what_its_dequantised_weights_compute(
    folder: Path, dtype: torch.dtype
) -> None:
    plain, stored = (passes(checkpoint.load(str(folder), dtype=dtype, fp8=fp8), dtype) for fp8 in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(plain, stored, strict=True))


def test_the_texts_are_those_of_the_dequantised_weights(folder: Path) -> None:
    texts = []
    for fp8 in (False, True):
        engine = Engine(checkpoint.load(str(folder), fp8=fp8), DENOISE, slots=2)
        texts.append([answer.text for answer in engine.transcribe([noise_segment(n, "en") for n in range(4)])])
        engine.close()
    assert texts[0] == texts[1]
    assert any(texts[0])


def test_it_compiles_as_one_graph_with_the_same_result(folder: Path) -> None:
    model = checkpoint.load(str(folder), fp8=True)
    hidden, denoised = passes(model)
    embeds, soft = torch.randn(1, 9, 64), torch.randn(1, 8, 64)
    canvas = torch.randint(0, 400, (1, 8))
    with torch.no_grad():
        prompt, wanted = backbone.prefill(model.backbone, embeds)
        compiled = torch.compile(backbone.prefill, fullgraph=True, dynamic=False)(model.backbone, embeds)[1]
        torch.testing.assert_close(compiled, wanted, atol=1e-4, rtol=1e-4)
        wanted = backbone.denoise(model.backbone, canvas, soft, prompt)
        compiled = torch.compile(backbone.denoise, fullgraph=True, dynamic=False)(model.backbone, canvas, soft, prompt)
        torch.testing.assert_close(compiled, wanted, atol=1e-4, rtol=1e-4)
    assert hidden.isfinite().all()
    assert denoised.isfinite().all()


def test_native_products_are_part_of_one_graph() -> None:
    """Traced whole; what inductor makes of it needs a GPU."""
    experts = experts_with_values(NATIVE)
    inputs = routed(9, torch.bfloat16)
    linear = Fp8Linear(64, 48, NATIVE)
    with torch.no_grad(), on_the_cpu():
        for weight, value in zip((linear.weight, linear.weight_scale), quantise(torch.randn(48, 64)), strict=True):
            weight.copy_(value)
        traced = torch.compile(experts, backend="aot_eager", fullgraph=True, dynamic=False)
        assert torch.equal(traced(*inputs), experts(*inputs))
        assert torch.equal(torch.compile(linear, backend="aot_eager", fullgraph=True)(inputs[0]), linear(inputs[0]))


def test_a_row_is_rounded_to_sixteenths_of_its_values_and_a_row_of_zeros_stays() -> None:
    """float8_e4m3fn keeps three bits after the first: a normal number is off by a sixteenth at most."""
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 6, 50)[:, None]
    x[7] = 0
    stored, scale = quantise(x)
    back = dequantise(stored, scale, torch.float32)
    assert torch.equal(back[7], x[7])
    normal = x.abs() > x.abs().amax(-1, keepdim=True) / 448 * 2**-6
    assert ((back - x).abs() <= x.abs() / 16 * 1.001)[normal].all()
    assert torch.equal(stored.float().abs().amax(-1), torch.full((50,), 448.0).index_fill(0, torch.tensor([7]), 0))


def test_a_native_linear_layer_multiplies_both_sides_in_fp8() -> None:
    """PyTorch computes this product on the CPU too."""
    generator = torch.Generator().manual_seed(4)
    layer = Fp8Linear(64, 48, NATIVE)
    weight, scale = quantise(torch.randn(48, 64, generator=generator))
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.weight_scale.copy_(scale)
    x = torch.randn(2, 5, 64, generator=generator).bfloat16()
    rounded = dequantise(*quantise(x), torch.float32)
    y = layer(x)
    assert (y.dtype, y.shape) == (torch.bfloat16, (2, 5, 48))
    wanted = rounded @ dequantise(weight, scale, torch.float32).t()
    torch.testing.assert_close(y.float(), wanted, atol=2e-2, rtol=8e-3)  # bfloat16 has 8 bits


def test_native_experts_multiply_both_sides_in_fp8() -> None:
    native, plain = (experts_with_values(kernels) for kernels in (NATIVE, Kernels()))
    x, chosen, weights = routed(11, torch.bfloat16)
    with on_the_cpu():
        out = native(x, chosen, weights)
    assert (out.dtype, out.shape) == (torch.bfloat16, x.shape)
    close = (out.float() - plain(x, chosen, weights).float()).norm() / plain(x, chosen, weights).float().norm()
    assert 0 < close < 0.08  # inputs are rounded to a sixteenth at most


def test_torch_accepts_the_shapes_strides_and_dtypes_of_the_products_for_gpus() -> None:
    """The checks that torch makes on the GPU are those of its meta device."""
    with torch.device("meta"):
        experts = Fp8Experts(random_model(1).backbone.model.decoder.layers[0].experts, NATIVE)
        x = torch.empty(7, 64, dtype=torch.bfloat16)
        out = experts(x, torch.zeros(7, 2, dtype=torch.int64), torch.ones(7, 2))
        assert (out.shape, out.dtype) == (x.shape, torch.bfloat16)
        assert Fp8Linear(64, 48, NATIVE)(x).shape == (7, 48)


@pytest.mark.parametrize(
    ("capability", "linear", "experts"),
    [
        ((8, 0), False, False),
        ((8, 6), False, False),
        ((8, 9), True, False),
        ((9, 0), True, True),
        ((10, 0), True, False),
    ],
)
def test_each_gpu_uses_the_fp8_products_that_torch_has_for_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], linear: bool, experts: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert Kernels.of("cuda", torch.bfloat16) == Kernels(linear, experts)
    assert Kernels.of("cuda", torch.float32) == Kernels()  # their output is bfloat16
    assert Kernels.of("cpu", torch.bfloat16) == Kernels()


def test_widths_that_fp8_products_cannot_take_are_dequantised() -> None:
    assert not Fp8Linear(64, 40, NATIVE).native
    assert Fp8Linear(64, 48, NATIVE).native


def test_both_phases_share_the_modules_and_lora_keeps_its_own() -> None:
    with torch.device("meta"):
        model = random_model(1, lora=LoraSpec(rank=4, alpha=8, targets=["q_proj", "o_proj"]))
        query = model.backbone.model.decoder.layers[0].self_attn.q_proj
        float8.convert(model.backbone, Kernels())
    pairs = zip(model.backbone.model.decoder.layers, model.backbone.model.encoder.language_model.layers, strict=True)
    for decoder, encoder in pairs:
        assert decoder.mlp.up_proj is encoder.mlp.up_proj
        assert decoder.experts is encoder.experts
        assert isinstance(decoder.self_attn.k_proj, Fp8Linear)
    assert model.backbone.model.decoder.layers[0].self_attn.q_proj is query
    assert all(weight.dtype in (FP8, torch.float32) for weight in float8.parameters(model).values())
