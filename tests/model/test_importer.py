"""Foreign adapters: known names are found under every wrapper, what is not known is listed, nothing loads in part."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model import recogniser
from pipeline.model.files import checkpoint, importer
from pipeline.model.files.layout import LoraSpec
from pipeline.model.network import lora
from pipeline.model.recogniser import AsrModel
from tests.model.test_lora import SPEC, passes
from tests.support.small_model import hearing_model


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(5, lora=SPEC)


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in state.items()}


def foreign(own: dict[str, Tensor], style: str) -> dict[str, Tensor]:
    """Our weights under names that others might give them."""
    renamed = {}
    for name, weight in own.items():
        if name.startswith("lora."):
            _, phase, _, layer, target, side = name.split(".")
            stack = {"encoder": "encoder.language_model", "decoder": "decoder"}[phase]
            kind = {"down": "A", "up": "B"}[side]
            default = ".default" if style == "peft" else ""
            wrapper = "base_model.model.model." if style == "peft" else "model."
            renamed[f"{wrapper}{stack}.layers.{layer}.self_attn.{target}.lora_{kind}{default}.weight"] = weight
        elif name.startswith("convs."):
            _, number, kind = name.split(".")
            place = {"peft": f"audio_projector.conv.{2 * int(number)}", "plain": f"projector.conv{int(number) + 1}"}
            renamed[f"{place[style]}.{kind}"] = weight
        else:
            part, kind = name.split(".")
            words = {"input": "in_proj", "output": "out_proj", "norm": "norm"}
            renamed[f"{'audio_projector' if style == 'peft' else 'projector'}.{words[part]}.{kind}"] = weight
    return renamed


@pytest.mark.parametrize("style", ["peft", "plain"])
@pytest.mark.parametrize("wrapper", ["", "adapter.", "module.adapter."])
def test_known_names_are_matched_under_every_wrapper(model: AsrModel, style: str, wrapper: str) -> None:
    own = recogniser.adapter_state(model)
    state = {wrapper + name: weight for name, weight in foreign(own, style).items()}
    matches = importer.match(shapes(state), shapes(own))
    assert matches.complete
    assert all(torch.equal(state[theirs], own[ours]) for theirs, ours in matches.names.items())
    assert len(set(matches.names.values())) == len(own)


def test_an_adapter_that_matches_in_part_is_refused_and_listed(model: AsrModel) -> None:
    own = recogniser.adapter_state(model)
    state = foreign(own, "plain")
    state["projector.mystery.weight"] = state.pop("projector.in_proj.weight")
    matches = importer.match(shapes(state), shapes(own))
    assert (matches.unmatched, matches.missing) == (["projector.mystery.weight"], ["input.weight"])
    lines = matches.lines()
    assert "unmatched  projector.mystery.weight" in lines
    assert "missing    input.weight" in lines
    assert "matched    projector.conv1.weight -> convs.0.weight" in lines
    with pytest.raises(ConfigError) as raised:
        importer.refuse_partial(matches, "adapter")
    message = str(raised.value)
    assert "\n" not in message
    assert f"{len(own) - 1} weights match, 1 unmatched (projector.mystery.weight), 1 missing (input.weight)" in message
    given = importer.match(shapes(state), shapes(own), {"projector.mystery.weight": "input.weight"})
    importer.refuse_partial(given, "adapter")


def test_a_name_with_another_shape_or_a_second_one_for_the_same_is_unmatched(model: AsrModel) -> None:
    own = recogniser.adapter_state(model)
    state = foreign(own, "plain")
    state["projector.out_proj.bias"] = torch.zeros(3)
    state["projector.linear_in.bias"] = state["projector.in_proj.bias"]
    matches = importer.match(shapes(state), shapes(own))
    assert sorted(matches.unmatched) == ["projector.linear_in.bias", "projector.out_proj.bias"]
    assert matches.missing == ["output.bias"]


def test_a_weight_can_be_left_out(model: AsrModel) -> None:
    own = recogniser.adapter_state(model)
    state = foreign(own, "plain") | {"ctc_head.weight": torch.ones(2)}
    assert importer.match(shapes(state), shapes(own)).unmatched == ["ctc_head.weight"]
    assert importer.match(shapes(state), shapes(own), {"ctc_head.weight": ""}).complete


def test_a_checkpoint_with_a_foreign_adapter_loads(model: AsrModel, tmp_path: Path) -> None:
    """As the hub's is, whose names nobody here has seen: by the same table."""
    checkpoint.save(model, tmp_path, dtype=torch.float32)
    path = tmp_path / "adapter.safetensors"
    state = foreign(recogniser.adapter_state(model), "peft")
    save_file(state, path)
    (own, decoded), (read, read_decoded) = passes(model), passes(checkpoint.load(str(tmp_path)))
    assert all(torch.equal(a, b) for a, b in zip([*own, decoded], [*read, read_decoded], strict=True))
    del state["audio_projector.in_proj.bias"]
    save_file(state, path)
    with pytest.raises(ConfigError, match=r"adapter\.safetensors: \d+ weights match, 1 missing \(input\.bias\)"):
        checkpoint.load(str(tmp_path))


def write_peft(folder: Path) -> AsrModel:
    """A folder of PEFT's, with LoRA of both phases that changes what is heard, and the model that PEFT itself runs."""
    pattern = r"model\.(encoder\.language_model|decoder)\.layers\.\d+\.self_attn\.[qkvo]_proj"
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=pattern, init_lora_weights=False)
    reference = hearing_model(5)
    wrapped = peft.get_peft_model(reference.backbone, settings)
    wrapped.save_pretrained(folder)
    reference.backbone = wrapped.base_model.model.eval()
    return reference


def test_a_folder_that_peft_has_written_is_read(model: AsrModel, tmp_path: Path) -> None:
    reference = write_peft(tmp_path)
    state, spec = importer.read_peft(tmp_path)
    assert spec == SPEC
    own = {name: weight.detach() for name, weight in lora.state(model.backbone).items()}
    matches = importer.match(shapes(state), shapes(own))
    importer.refuse_partial(matches, "adapter")
    imported = hearing_model(5, lora=SPEC)
    ours = lora.state(imported.backbone)
    for theirs, name in matches.names.items():
        ours[name].copy_(state[theirs])
    for one, other in zip(passes(imported), passes(reference), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "bias"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"r": None}, "adapter_config.json"),
    ],
)
def test_what_is_not_plain_lora_is_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    tree = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **change}
    (tmp_path / "adapter_config.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=says):
        importer.read_peft(tmp_path)


def test_rank_stabilised_lora_keeps_its_scale(tmp_path: Path) -> None:
    tree = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(tree))
    name = "base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(4, 8)}, tmp_path / "adapter_model.safetensors")
    spec = importer.read_peft(tmp_path)[1]
    assert spec == LoraSpec(rank=4, alpha=16, targets=["q_proj"])
    assert spec.alpha / spec.rank == 8 / 4**0.5


def test_a_torch_file_is_read_without_running_it(tmp_path: Path) -> None:
    tensor = torch.arange(3.0)
    torch.save({"projector": {"in_proj.bias": tensor}, "epoch": 3}, tmp_path / "adapter.pt")
    assert torch.equal(importer.read_state(tmp_path / "adapter.pt")["projector.in_proj.bias"], tensor)
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "code.pt")  # a pickled class
    for name, content in (("code.pt", None), ("text.pt", b"no weights"), ("cut.safetensors", b"\x07")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name) as raised:
            importer.read_state(tmp_path / name)
        assert "\n" not in str(raised.value)
