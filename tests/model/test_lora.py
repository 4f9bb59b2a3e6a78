"""LoRA: one adapter per phase over shared weights, equal to PEFT's, compiled, plain or merged; saved and loaded."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.model import memory, recogniser
from pipeline.model.denoise.compiled import Calls
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint
from pipeline.model.files.layout import LoraSpec
from pipeline.model.network import backbone, lora
from pipeline.model.recogniser import AsrModel
from tests.model.test_engine import DENOISE
from tests.support.allocations import Allocations
from tests.support.small_model import hearing_model, noise_segment, random_model

SPEC = LoraSpec(rank=4, alpha=8, targets=["q_proj", "k_proj", "v_proj", "o_proj"])


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(5, lora=SPEC)


@pytest.fixture(scope="module")
def plain() -> AsrModel:
    """The same weights without adapters."""
    return hearing_model(5)


@pytest.fixture(scope="module")
def merged() -> AsrModel:
    """The model as inference loads it."""
    made = hearing_model(5, lora=SPEC)
    lora.merge(made.backbone)
    return made


@torch.inference_mode()
def passes(model: AsrModel, calls: Calls | None = None) -> tuple[list[Tensor], Tensor]:
    """Keys, values and hidden states of a prompt pass, and hidden states of a denoising pass over its cache."""
    calls = calls or Calls.make(compile=False)
    generator = torch.Generator().manual_seed(1)
    dtype = model.backbone.lm_head.weight.dtype
    prompt = torch.randn(2, 9, 64, generator=generator).to(dtype)
    canvas = torch.randint(400, (2, 8), generator=generator)
    soft = torch.randn(2, 8, 64, generator=generator).to(dtype) * 0.05
    kv, hidden = calls.prefill(model.backbone, prompt)
    denoised = calls.denoise(model.backbone, canvas, soft, kv)
    return [hidden, *(t for layer in kv.layers for t in (layer.keys, layer.values))], denoised


def without(model: AsrModel, phase: str) -> AsrModel:
    """A copy of the model whose adapters of one phase add nothing."""
    copy = hearing_model(5, lora=SPEC)
    copy.backbone.load_state_dict(model.backbone.state_dict())
    for name, weight in lora.state(copy.backbone).items():
        if name.startswith(f"lora.{phase}.") and name.endswith(".up"):
            weight.zero_()
    return copy


def with_peft(plain: AsrModel, model: AsrModel) -> Any:
    """The same backbone and adapter weights with PEFT, which wraps the modules of both phases."""
    config = peft.LoraConfig(
        r=SPEC.rank,
        lora_alpha=SPEC.alpha,
        lora_dropout=0.0,
        target_modules=r"model\.(encoder\.language_model|decoder)\.layers\.\d+\.self_attn\.[qkvo]_proj",
    )
    wrapped = peft.get_peft_model(hearing_model(5).backbone, config).eval().requires_grad_(False)
    modules = dict(wrapped.base_model.model.named_modules())
    for name, ours in lora.adapters(model.backbone):
        phase, rest = name.removeprefix("lora.").split(".", 1)
        part = {"encoder": "model.encoder.language_model", "decoder": "model.decoder"}[phase]
        _, index, target = rest.split(".")
        theirs = modules[f"{part}.layers.{index}.self_attn.{target}"]
        theirs.lora_A["default"].weight.copy_(ours.lora_down)
        theirs.lora_B["default"].weight.copy_(ours.lora_up)
    return wrapped.base_model.model


@pytest.mark.parametrize("kind", ["model", "merged"])
def test_both_passes_are_equal_to_pefts(
    model: AsrModel, plain: AsrModel, kind: str, request: pytest.FixtureRequest
) -> None:
    reference = hearing_model(5)
    reference.backbone = with_peft(plain, model)
    (own, own_decoded), (theirs, denoised) = passes(request.getfixturevalue(kind)), passes(reference)
    for ours, other in zip([*own, own_decoded], [*theirs, denoised], strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
    assert (denoised - passes(plain)[1]).abs().max() > 0.1  # the adapters do something


def test_new_adapters_add_nothing(plain: AsrModel) -> None:
    fresh = hearing_model(5)
    lora.attach(fresh.backbone, **SPEC.model_dump())
    (own, denoised), (expected, expected_decoded) = passes(fresh), passes(plain)
    assert all(torch.equal(a, b) for a, b in zip([*own, denoised], [*expected, expected_decoded], strict=True))
    assert all(weight.abs().max() > 0 for name, weight in lora.state(fresh.backbone).items() if name.endswith("down"))


def test_each_phase_has_its_own(model: AsrModel, plain: AsrModel) -> None:
    """The prompt pass ignores the decoder's adapter. Denoising uses its own adapter on the same cache."""
    own, denoised = passes(model)
    prompt_only, other_decoded = passes(without(model, "decoder"))
    assert all(torch.equal(a, b) for a, b in zip(own, prompt_only, strict=True))
    assert not torch.allclose(denoised, other_decoded, atol=1e-2)
    bare = passes(without(model, "encoder"))[0]
    assert all(torch.equal(a, b) for a, b in zip(bare, passes(plain)[0], strict=True))
    assert not torch.allclose(own[0], bare[0], atol=1e-2)


def test_the_weights_below_stay_shared_and_untouched(model: AsrModel, plain: AsrModel) -> None:
    encoder, decoder = model.backbone.model.encoder.language_model, model.backbone.model.decoder
    for own, other in zip(encoder.layers, decoder.layers, strict=True):
        for target in SPEC.targets:
            one, two = getattr(own.self_attn, target), getattr(other.self_attn, target)
            if one is not None:
                assert one.base.weight is two.base.weight
                assert one.lora_up.data_ptr() != two.lora_up.data_ptr()
    assert decoder.layers[-1].self_attn.v_proj is None
    base, tied = recogniser.backbone_state(model.backbone)
    expected, expected_tied = recogniser.backbone_state(plain.backbone)
    assert base.keys() == expected.keys()
    assert tied == expected_tied
    assert all(torch.equal(base[name], expected[name]) for name in base)


def test_merging_splits_q_k_v_o_between_the_phases_and_nothing_else(model: AsrModel, merged: AsrModel) -> None:
    assert not lora.state(merged.backbone)
    assert not any(isinstance(module, lora.LoraLinear) for module in merged.modules())
    encoder, decoder = merged.backbone.model.encoder.language_model, merged.backbone.model.decoder
    own, other = (dict(part.layers.named_parameters()) for part in (encoder, decoder))
    assert own.keys() == other.keys()
    for name, weight in own.items():
        target = name.split(".")[-2]
        assert (weight.data_ptr() != other[name].data_ptr()) == (target in SPEC.targets), name
    added = sum(p.numel() for p in merged.parameters()) - sum(p.numel() for p in hearing_model(5).parameters())
    assert added == lora.copied(model.backbone) > 0


def test_merged_passes_call_what_the_plain_model_calls(model: AsrModel, plain: AsrModel, merged: AsrModel) -> None:
    """No operation of LoRA is left. With LoRA unmerged there are more of them."""

    def calls(of: AsrModel) -> list[str]:
        with torch.profiler.profile() as seen:
            passes(of)
        return sorted(f"{event.key} {event.count}" for event in seen.key_averages() if event.key.startswith("aten::"))

    assert calls(merged) == calls(plain) != calls(model)


def test_merging_leaves_the_weights_alone_that_another_model_shares() -> None:
    one = hearing_model(5, lora=SPEC)
    before = passes(one)
    shared = copy.deepcopy(one, {id(weight): weight for weight in one.parameters()})
    lora.merge(shared.backbone)
    after = passes(one)
    assert all(torch.equal(a, b) for a, b in zip([*before[0], before[1]], [*after[0], after[1]], strict=True))


def test_in_bfloat16_the_sum_is_rounded_once() -> None:
    made = hearing_model(5, lora=SPEC).bfloat16()
    expected = {
        name: (
            module.base.weight.float() + module.scale * (module.lora_up.float() @ module.lora_down.float())
        ).bfloat16()
        for name, module in lora.adapters(made.backbone)
    }
    lora.merge(made.backbone)
    for name, weight in expected.items():
        _, phase, _, layer, target = name.split(".")
        part = made.backbone.model.encoder.language_model if phase == "encoder" else made.backbone.model.decoder
        found = getattr(part.layers[int(layer)].self_attn, target).weight
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, weight, rtol=2**-7, atol=0)  # one unit in the last place
        assert (found != weight).float().mean() < 0.001  # float32 sums in another order


def test_a_merged_model_cannot_be_saved(merged: AsrModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="merged"):
        checkpoint.save(merged, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_merged_takes_the_copies_more_and_gives_the_same(
    model: AsrModel, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Beside the copies there is room for one weight and its float32 sums."""
    checkpoint.save(model, tmp_path, dtype=torch.float32)
    with Allocations() as plain:
        unmerged = checkpoint.load(str(tmp_path), dtype=dtype)
    with Allocations() as made:
        loaded = checkpoint.load(str(tmp_path), dtype=dtype, merge=True)
    largest = max(module.base.weight.numel() for _, module in lora.adapters(model.backbone))
    room = largest * (dtype.itemsize + (0 if dtype == torch.float32 else 2 * 4))
    assert made.peak <= plain.peak + lora.copied(model.backbone) * dtype.itemsize + room
    needed = memory.estimate(unmerged, DENOISE, slots=2, dtype=dtype)
    assert needed.weights + needed.lora == sum(weight.nbytes for weight in loaded.parameters())
    lora.merge(unmerged.backbone)
    (own, denoised), (read, read_denoised) = passes(unmerged), passes(loaded)
    assert all(torch.equal(a, b) for a, b in zip([*own, denoised], [*read, read_denoised], strict=True))


def test_adapters_are_saved_with_the_projector_and_loaded(model: AsrModel, tmp_path: Path) -> None:
    checkpoint.save(model, tmp_path, dtype=torch.float32)
    stored = load_file(tmp_path / "adapter.safetensors")
    assert stored["lora.encoder.layers.0.q_proj.down"].shape == (4, 64)
    assert stored["lora.decoder.layers.2.k_proj.up"].shape == (32, 4)
    assert {"input.weight", "output.bias"} <= stored.keys()
    assert not [name for name in load_file(tmp_path / "backbone/model.safetensors") if "lora" in name]
    loaded = checkpoint.load(str(tmp_path))
    assert loaded.config == model.config
    (own, denoised), (read, read_denoised) = passes(model), passes(loaded)
    assert all(torch.equal(a, b) for a, b in zip([*own, denoised], [*read, read_denoised], strict=True))


def test_the_compiled_prompt_and_denoising_passes_are_equal() -> None:
    """Called as the engine calls them; with one layer, because compiling is slow."""
    model = random_model(5, lora=SPEC, layers=1, experts=2)
    fast = Calls.make(compile=True)
    calls = replace(Calls.make(compile=False), prefill=fast.prefill, denoise=fast.denoise)
    (own, denoised), (compiled, compiled_denoised) = passes(model), passes(model, calls)
    for a, b in zip([*own, denoised], [*compiled, compiled_denoised], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))


def test_the_engine_uses_them_and_says_the_same_when_they_are_merged(
    model: AsrModel, plain: AsrModel, merged: AsrModel
) -> None:
    segments = [noise_segment(n, "en") for n in range(6)]
    texts = []
    for of in (model, plain, without(model, "encoder"), without(model, "decoder"), merged):
        engine = Engine(of, DENOISE, slots=3)
        texts.append([result.text for result in engine.transcribe(segments)])
        engine.close()
    assert texts[0] == texts[4]
    assert len({tuple(text or "" for text in row) for row in texts}) == 4


def test_training_reaches_both_adapters_and_no_base_weight() -> None:
    trained = hearing_model(5, lora=SPEC)
    adapters = lora.state(trained.backbone)
    for weight in adapters.values():
        weight.requires_grad_(True)
    generator = torch.Generator().manual_seed(2)
    cache, hidden = backbone.prefill(trained.backbone, torch.randn(2, 6, 64, generator=generator))
    canvas = torch.randint(400, (2, 8), generator=generator)
    denoised = backbone.denoise(trained.backbone, canvas, torch.zeros(2, 8, 64), cache)
    (denoised.abs().sum() + hidden.abs().sum()).backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in adapters.values())
    assert all(weight.grad is None for weight in recogniser.backbone_state(trained.backbone)[0].values())
