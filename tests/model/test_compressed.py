"""A backbone in FP8 as compressed-tensors writes it: read into the model tensor by tensor, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.files import checkpoint, conversion, hub
from pipeline.model.files.import_config import ImportConfig
from pipeline.model.files.layout import LoraSpec
from pipeline.model.network.float8 import FP8
from pipeline.model.recogniser import AsrModel, backbone_state
from tests.model.test_weights import shard
from tests.support import fp8_checkpoint
from tests.support.small_model import hearing_model

DECODER, PROMPT = "model.decoder.layers.", "model.encoder.language_model.layers."
ONE = DECODER + "1.experts.2.up_proj.weight"
DENSE = DECODER + "0.mlp.gate_proj.weight"


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(3)


@pytest.fixture
def folder(model: AsrModel, tmp_path: Path) -> Path:
    fp8_checkpoint.write(model, tmp_path)
    return tmp_path


def state(model: AsrModel) -> dict[str, Tensor]:
    return backbone_state(model.backbone)[0]


def differing(model: AsrModel, wanted: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in state(model).items() if not torch.equal(wanted[name].to(tensor.dtype), tensor)]


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the stored weights."""
    path = folder / "backbone" / "model.safetensors"
    stored = load_file(path)
    edit(stored)
    save_file(stored, path, metadata={"format": "pt"})


def refusal(folder: Path, *, fp8: bool = False) -> str:
    with pytest.raises(ConfigError) as raised:
        checkpoint.load(str(folder), fp8=fp8)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("both_phases", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_what_compressed_tensors_dequantises(
    model: AsrModel, tmp_path: Path, dtype: torch.dtype, both_phases: bool
) -> None:
    """In float32, and from scales in bfloat16. Tied weights may be stored under both of their names."""
    wanted = fp8_checkpoint.write(model, tmp_path, dtype=dtype, both_phases=both_phases)
    assert load_file(tmp_path / "backbone" / "model.safetensors")[ONE].dtype == FP8
    loaded = checkpoint.load(str(tmp_path), dtype=dtype)
    assert not differing(loaded, wanted)
    assert {tensor.dtype for tensor in state(loaded).values()} == {dtype}


def test_in_fp8_the_stored_bytes_and_scales_are_the_models(folder: Path) -> None:
    loaded = state(checkpoint.load(str(folder), fp8=True))
    stored = load_file(folder / "backbone" / "model.safetensors")
    assert torch.equal(loaded[DENSE], stored[DENSE])
    assert torch.equal(loaded[DENSE + "_scale"], stored[DENSE + "_scale"])
    for ending in ("", "_scale"):
        fused = loaded[f"{DECODER}1.experts.gate_up_proj{ending}"]
        for expert, tensor in enumerate(fused):
            gate, up = (stored[f"{DECODER}1.experts.{expert}.{part}_proj.weight{ending}"] for part in ("gate", "up"))
            assert torch.equal(tensor, torch.cat([gate, up]))
    assert loaded[f"{DECODER}1.experts.gate_up_proj"].dtype == FP8


def test_scales_may_be_in_another_shard_than_their_weights(model: AsrModel, tmp_path: Path) -> None:
    wanted = fp8_checkpoint.write(model, tmp_path)
    assert shard(tmp_path, 0.003) > 20
    apart = [
        path
        for path in (tmp_path / "backbone").glob("model-*.safetensors")
        if any(
            tensor.dtype == FP8 and f"{name}_scale" not in load_file(path) for name, tensor in load_file(path).items()
        )
    ]
    assert apart
    assert not differing(checkpoint.load(str(tmp_path)), wanted)


def test_what_the_checkpoint_ignores_is_not_in_fp8(model: AsrModel, tmp_path: Path) -> None:
    ignore = [*fp8_checkpoint.IGNORE, "re:.*self_attn.*", "re:.*layers.2.*experts.*"]
    wanted = fp8_checkpoint.write(model, tmp_path, ignore=ignore)
    assert not differing(checkpoint.load(str(tmp_path)), wanted)
    in_fp8 = {name for name, tensor in state(checkpoint.load(str(tmp_path), fp8=True)).items() if tensor.dtype == FP8}
    assert in_fp8
    assert not [name for name in in_fp8 if "self_attn" in name or "layers.2.experts" in name]
    assert f"{DECODER}1.experts.down_proj" in in_fp8


def test_what_is_in_fp8_on_disk_but_never_in_memory_is_dequantised(model: AsrModel, tmp_path: Path) -> None:
    """The router, and self-conditioning."""
    wanted = fp8_checkpoint.write(model, tmp_path, ignore=["lm_head", "re:.*vision.*"])
    loaded = state(checkpoint.load(str(tmp_path), fp8=True))
    for name in (f"{DECODER}0.router.proj.weight", "model.decoder.self_conditioning.up_proj.weight"):
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], wanted[name])


def test_projections_with_lora_are_in_the_models_dtype(tmp_path: Path) -> None:
    spec = LoraSpec(rank=4, alpha=8, targets=["q_proj", "v_proj"])
    wanted = fp8_checkpoint.write(hearing_model(3), tmp_path)
    with_lora = hearing_model(3, lora=spec)
    backbone = (tmp_path / "backbone" / "model.safetensors").read_bytes()
    checkpoint.save(with_lora, tmp_path, dtype=torch.float32)
    (tmp_path / "backbone" / "model.safetensors").write_bytes(backbone)
    loaded = state(checkpoint.load(str(tmp_path), fp8=True))
    query = f"{DECODER}0.self_attn.q_proj.weight"
    assert torch.equal(loaded[query], wanted[query])
    assert loaded[f"{DECODER}0.self_attn.k_proj.weight"].dtype == FP8


def test_a_checkpoint_without_fp8_is_quantised_as_compressed_tensors_does(model: AsrModel, tmp_path: Path) -> None:
    fp8_checkpoint.write(model, tmp_path / "theirs")
    checkpoint.save(model, tmp_path / "plain", dtype=torch.float32)
    theirs, ours = (state(checkpoint.load(str(tmp_path / name), fp8=True)) for name in ("theirs", "plain"))
    assert [name for name, tensor in ours.items() if tensor.dtype == FP8]
    assert [name for name in theirs if not torch.equal(theirs[name], ours[name])] == []


def test_a_model_in_fp8_is_not_written(folder: Path, tmp_path: Path) -> None:
    """Its weights without their scales would be other weights."""
    with pytest.raises(ValueError, match="FP8"):
        checkpoint.save(checkpoint.load(str(folder), fp8=True), tmp_path / "again")


def test_it_comes_through_the_importer(model: AsrModel, folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    checkpoint.save(model, base, dtype=torch.float32)
    shutil.copy(base / "tokenizer.json", folder / "backbone")
    (base / "backbone" / "model.safetensors").unlink()
    parts = ImportConfig(
        output=str(tmp_path / "made"),
        base=str(base),
        adapter=[str(base / hub.PARTS["adapter"])],
        encoder=str(base / hub.PARTS["encoder"]),
        encoder_heads=2,
        backbone=str(folder / "backbone"),
    )
    made = checkpoint.load(str(conversion.convert(parts, lambda _: None)), verify=True)
    assert not differing(made, state(checkpoint.load(str(folder))))


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda s: s.pop(ONE + "_scale"), f"{ONE}_scale is missing"),
        (lambda s: s.pop(DENSE + "_scale"), f"{DENSE}_scale is missing"),
        (lambda s: [s.pop(name) for name in (ONE, ONE + "_scale")], f"missing weights: {ONE}"),
        (lambda s: s.update({DENSE: s[DENSE].float()}), f"unexpected weight {DENSE}_scale"),
        (lambda s: s.update({DENSE + "_zero_point": torch.zeros(96, 1)}), f"unexpected weight {DENSE}_zero_point"),
        (lambda s: s.update({DECODER + "1.experts.9.up_proj.weight": s[ONE].float()}), "unexpected weight "),
        (lambda s: s.update({DENSE + "_scale": s[DENSE + "_scale"][:1]}), f"{DENSE}_scale is of shape [1, 1]"),
        (lambda s: s.update({ONE: s[ONE].t().contiguous()}), f"{ONE} is of shape [64, 48] instead of [48, 64]"),
        (lambda s: s.update({PROMPT + "0.mlp.gate_proj.weight": s[DENSE].float() + 1}), "differs from the weight"),
    ],
)
def test_wrong_files_are_one_line_with_file_and_tensor(
    folder: Path, edit: Callable[[dict[str, Tensor]], object], named: str, fp8: bool
) -> None:
    change(folder, edit)
    message = refusal(folder, fp8=fp8)
    assert "backbone/model.safetensors" in message
    assert named in message


@pytest.mark.parametrize("scheme", ["FP8_BLOCK", "W8A8", "NVFP4", "FP8"])
def test_another_quantisation_is_refused_by_its_name(folder: Path, scheme: str) -> None:
    path = folder / "backbone" / "config.json"
    tree = json.loads(path.read_text())
    tree["quantization_config"] = json.loads(QuantizationConfig(config_groups={scheme: ["Linear"]}).model_dump_json())
    path.write_text(json.dumps(tree))
    message = refusal(folder)
    assert "backbone/config.json: quantization_config" in message
    assert "channel" in message
