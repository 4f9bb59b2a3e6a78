"""Adapters of other programs: every weight finds its place by role and shape, or nothing is loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model import recogniser
from pipeline.model.files import checkpoint, conversion, importer, layout, weights
from pipeline.model.files.layout import LoraSpec
from pipeline.model.network import lora
from pipeline.model.recogniser import AsrModel
from tests.model.test_lora import SPEC, passes
from tests.support.small_model import hearing_model


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(5, lora=SPEC)


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in state.items()}


@dataclass(frozen=True)
class Layout:
    """How another program might name the weights of an adapter. `lora` has the fields stack, layer, target, side."""

    projector: dict[str, str]  # our module to theirs
    lora: str
    stacks: tuple[str, str] = ("encoder", "decoder")


def in_order(pattern: str, places: Sequence[object]) -> dict[str, str]:
    """Names of our modules in theirs: input, three convolutions, output, norm, at these places of a pattern."""
    ours = ("input", "convs.0", "convs.1", "convs.2", "output", "norm")
    return dict(zip(ours, (pattern.format(place) for place in places), strict=True))


PEFT = Layout(
    in_order("audio_projector.{}", ["in_proj", "conv.0", "conv.2", "conv.4", "out_proj", "norm"]),
    "base_model.model.model.{stack}.layers.{layer}.self_attn.{target}_proj.lora_{side}.default.weight",
    ("encoder.language_model", "decoder"),
)
LAYOUTS = {
    "PEFT": PEFT,
    "attributes of a model": Layout(
        in_order("projector.{}", ["fc1", "conv1", "conv2", "conv3", "fc2", "ln"]),
        "base.model.{stack}.layers.{layer}.self_attn.{target}_proj.lora_{side}.weight",
        ("encoder.language_model", "decoder"),
    ),
    "a sequence, with its activations counted": Layout(
        in_order("trainable.audio_proj.net.{}", [0, 2, 4, 6, 9, 10]),
        "trainable.lora.{stack}.{layer}.{target}.{side}",
    ),
    "ten and more": Layout(
        in_order("model.proj.{}", ["linear_in", "stack.8", "stack.10", "stack.12", "linear_out", "post"]),
        "model.lora.{stack}.blocks.{layer}.attn.{target}_proj.{side}",
    ),
    "no dots in the names of a ParameterDict": Layout(
        in_order("adapter.mm_{}", ["first", "conv_1", "conv_2", "conv_3", "last", "layernorm"]),
        "adapter.lora_{stack}_layers_{layer}_self_attn_{target}_proj.{side}",
    ),
    "down and up": Layout(
        in_order("module.connector.{}", ["up", "sub.0.conv", "sub.1.conv", "sub.2.conv", "down", "final_norm"]),
        "module.{stack}.layers.{layer}.{target}_proj.lora_{side}",
        ("enc", "dec"),
    ),
    "a model around a base": Layout(
        in_order("projector.{}", ["proj_in", "down.0", "down.1", "down.2", "proj_out", "out_norm"]),
        "base.base_model.model.model.{stack}.layers.{layer}.self_attn.{target}_proj.linear.lora_{side}.adapter.weight",
        ("encoder.language_model", "decoder"),
    ),
    "lists of layers, numbered with zeros": Layout(
        in_order("audio.{}", ["0.linear", "1.conv", "2.conv", "3.conv", "4.linear", "5"]),
        "adapters.{stack}.h_0{layer}.{target}_proj_lora_{side}",
    ),
}
NOISE: dict[str, dict[str, Any]] = {  # what training code saves beside the weights and is no tensor
    "settings": {"config": {"rank": 4, "targets": ["q_proj"], "dropout": 0.05}, "args": argparse.Namespace(lr=1e-3)},
    "progress": {"step": 7, "losses": [0.4, 0.3], "best": None, "folder": Path("/home/somebody")},
    "optimiser": {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "params": [0, 1]}]}},
}
LEFT_OVER: dict[str, tuple[dict[str, Any], str]] = {  # tensors without a place, and how they are named
    "a dropout's mask": ({"projector": {"dropout": {"mask": torch.ones(3)}}}, "projector.dropout.mask"),
    "states of the optimiser": ({"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "optimizer.state.0.exp_avg"),
    "states of random numbers": ({"rng": [torch.zeros(8, dtype=torch.uint8)]}, "rng.0"),
}


def foreign(own: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Our weights under the names of a layout."""
    renamed = {}
    for name, weight in own.items():
        if name.startswith("lora."):
            _, phase, _, layer, target, side = name.split(".")
            words = ("down", "up") if layout.stacks == ("enc", "dec") else ("A", "B")
            theirs = layout.lora.format(
                stack=layout.stacks[("encoder", "decoder").index(phase)],
                layer=layer,
                target=target[0],
                side=words[("down", "up").index(side)],
            )
        else:
            module, _, kind = name.rpartition(".")
            theirs = f"{layout.projector[module]}.{kind}"
        renamed[theirs] = weight
    assert len(renamed) == len(own)
    return renamed


@pytest.mark.parametrize("prefix", ["", "base.", "state_dict.model.", "_orig_mod.module."])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_weight_of_a_plausible_layout_finds_its_place(model: AsrModel, layout: str, prefix: str) -> None:
    own = recogniser.adapter_state(model)
    state = {prefix + name: weight for name, weight in foreign(own, LAYOUTS[layout]).items()}
    matches = importer.match(shapes(state), shapes(own))
    assert (matches.unmatched, matches.missing) == ({}, {})
    assert all(state[theirs] is own[ours] for theirs, ours in matches.names.items())
    assert len(set(matches.names.values())) == len(own)


@pytest.fixture(scope="module")
def full_size() -> dict[str, tuple[int, ...]]:
    return conversion.adapter_shapes(layout.read_config(layout.ASSETS / layout.FULL_SIZE))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_finds_its_place_at_the_published_size(full_size: dict[str, tuple[int, ...]], name: str) -> None:
    """Global layers have no v_proj, and other widths; 30 layers have numbers of two digits."""
    theirs: Any = foreign(dict(full_size), LAYOUTS[name])  # type: ignore[arg-type]
    matches = importer.match(theirs, full_size)
    assert matches.complete
    assert len(matches.names) == len(full_size) == 12 + 2 * 2 * (30 * 3 + 25)
    assert matches.names.keys() == theirs.keys()
    assert all(foreign({ours: full_size[ours]}, LAYOUTS[name]).keys() == {a} for a, ours in matches.names.items())  # type: ignore[dict-item]
    assert len(matches.lines()) == 12 + 2 * 2 * 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_tensors_of_a_torch_file_count_and_a_tensor_that_is_left_over_is_refused(
    model: AsrModel, layout: str, tmp_path: Path
) -> None:
    own, path = recogniser.adapter_state(model), tmp_path / "adapter.pt"
    state = foreign(own, LAYOUTS[layout])
    torch.save({"model": state, **NOISE["settings"], **NOISE["progress"], **NOISE["optimiser"]}, path)
    read = weights.read_state(path)
    matches = importer.match(shapes(read), shapes(own))
    assert matches.complete
    assert all(torch.equal(read[theirs], own[ours]) for theirs, ours in matches.names.items())
    for noise, name in LEFT_OVER.values():
        torch.save({"model": state, **noise}, path)
        matches = importer.match(weights.shapes(path), shapes(own))
        with pytest.raises(ConfigError, match=rf"{len(own)} weights match, 1 unmatched \({name}\)"):
            importer.refuse_partial(matches, "adapter")


def test_the_order_in_the_file_does_not_matter(model: AsrModel) -> None:
    own = recogniser.adapter_state(model)
    state = foreign(own, LAYOUTS["ten and more"])
    turned = dict(reversed(state.items()))
    assert importer.match(shapes(turned), shapes(own)).names == importer.match(shapes(state), shapes(own)).names


def test_our_own_names_stay_whatever_their_shapes_have_in_common() -> None:
    own = {"input.weight": (4, 4), "input.bias": (4,), "output.weight": (4, 4), "output.bias": (4,)}
    assert importer.match(own, own).names == {name: name for name in own}
    others = {f"theirs.{name}": shape for name, shape in own.items()}
    matches = importer.match(others, own)
    assert (matches.unmatched, matches.missing, matches.names) == (others, own, {})  # the shapes do not tell


def renamed(state: dict[str, Tensor], old: str, new: str) -> None:
    state[new] = state.pop(old)


Q0 = "base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_A.default.weight"
WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "a weight more": (lambda state: state.update({"ctc_head.weight": torch.ones(2)}), "1 unmatched (ctc_head.weight)"),
    "a projector's weight less": (lambda state: state.pop("audio_projector.norm.bias"), "1 missing (norm.bias)"),
    "a LoRA weight less": (lambda state: state.pop(Q0), "1 missing (lora.decoder.layers.0.q_proj.down)"),
    "another shape": (lambda state: state.update({Q0: torch.ones(3, 3)}), f"1 unmatched ({Q0})"),
    "a bias of another shape": (
        lambda state: state.update({"audio_projector.out_proj.bias": torch.ones(3)}),
        "1 unmatched (audio_projector.out_proj.bias), 1 missing (output.bias)",
    ),
    "a layer that is not there": (
        lambda state: renamed(state, Q0, Q0.replace("layers.0", "layers.7")),
        "1 missing (lora.decoder.layers.0.q_proj.down)",
    ),
    "no phase": (
        lambda state: renamed(state, Q0, Q0.replace("decoder", "stack")),
        "1 missing (lora.decoder.layers.0.q_proj.down)",
    ),
    "two phases": (
        lambda state: renamed(state, Q0, f"encoder.{Q0}"),
        "1 missing (lora.decoder.layers.0.q_proj.down)",
    ),
    "twice the same role": (
        lambda state: state.update({Q0.replace(".default", ""): state[Q0]}),
        f"2 unmatched ({Q0}, {Q0.replace('.default', '')}), 1 missing",
    ),
    "convolutions without an order": (
        lambda state: renamed(state, "audio_projector.conv.4.weight", "audio_projector.2.conv.weight"),
        "missing (convs.0.weight",
    ),
    "a convolution more": (
        lambda state: state.update({"audio_projector.conv.6.weight": state["audio_projector.conv.4.weight"]}),
        "missing (convs.0.weight",
    ),
    "a second module of the same shape": (
        lambda state: state.update({"head.weight": state["audio_projector.in_proj.weight"]}),
        "missing (input.weight, input.bias)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_adapter_is_refused_in_one_line(model: AsrModel, wrong: str) -> None:
    own = recogniser.adapter_state(model)
    state = foreign(own, PEFT)
    change, says = WRONG[wrong]
    change(state)
    matches = importer.match(shapes(state), shapes(own))
    with pytest.raises(ConfigError) as raised:
        importer.refuse_partial(matches, "adapter")
    message = str(raised.value)
    assert "\n" not in message
    assert says in message, message
    assert all(state[theirs] is own[ours] for theirs, ours in matches.names.items())  # what matches is right


def test_the_table_says_what_went_where_and_what_is_left(model: AsrModel) -> None:
    own = recogniser.adapter_state(model)
    state = foreign(own, PEFT)
    state["ctc_head.weight"] = torch.ones(2, 3)
    del state["audio_projector.in_proj.bias"]
    matches = importer.match(shapes(state), shapes(own))
    lines = matches.lines()
    layers = len(model.backbone.model.decoder.layers)
    assert len(lines) == 12 + 1 + 2 * (4 * 2)  # the projector, one unmatched, and LoRA of two phases by target and side
    where = "base_model.model.model.decoder.layers.*.self_attn.q_proj.lora_A.default.weight"
    assert f"matched    {where} -> lora.decoder.layers.*.q_proj.down ({layers} layers)" in lines
    assert "matched    audio_projector.conv.2.weight -> convs.1.weight" in lines
    assert "unmatched  ctc_head.weight [2, 3]" in lines
    assert f"missing    input.bias [{len(own['input.bias'])}]" in lines
    assert not matches.complete


def test_a_name_can_be_given_and_a_weight_left_out(model: AsrModel) -> None:
    own = recogniser.adapter_state(model)
    state = foreign(own, PEFT) | {"ctc_head.weight": torch.ones(2)}
    renamed(state, Q0, "mystery")
    assert importer.match(shapes(state), shapes(own)).unmatched == {
        "ctc_head.weight": (2,),
        "mystery": tuple(state["mystery"].shape),
    }
    given = {"ctc_head.weight": "", "mystery": "lora.decoder.layers.0.q_proj.down"}
    matches = importer.match(shapes(state), shapes(own), given)
    assert matches.complete
    assert matches.names["mystery"] == "lora.decoder.layers.0.q_proj.down"
    assert "matched    mystery -> lora.decoder.layers.0.q_proj.down" in matches.lines()
    more = state | {f"optimizer.state.{n}.exp_avg": torch.ones(2) for n in range(20)}
    assert importer.match(shapes(more), shapes(own), given | {"optimizer.*": ""}).complete


@pytest.mark.parametrize("names", ["norm.weight", "*.norm.*", "*"])
def test_a_layer_norm_cannot_be_left_out(model: AsrModel, names: str) -> None:
    own = recogniser.adapter_state(model)
    state = {f"theirs.{name}": weight for name, weight in own.items()}
    without = {name: weight for name, weight in own.items() if not name.startswith("norm.")}
    given = {names: "", "theirs.norm.weight": "", "theirs.norm.bias": ""}
    matches = importer.match(shapes(state), shapes(without), given)
    assert list(matches.unmatched) == ["theirs.norm.weight", "theirs.norm.bias"]
    with pytest.raises(ConfigError, match=r"projector\.final_norm in config\.json"):
        importer.refuse_partial(matches, "adapter")
    state = {f"theirs.{name}": weight for name, weight in without.items()}
    with pytest.raises(ConfigError, match=r"2 missing \(norm\.weight, norm\.bias\).* projector\.final_norm"):
        importer.refuse_partial(importer.match(shapes(state), shapes(own), given), "adapter")


def test_nested_dicts_in_a_torch_file_are_prefixes_like_others(model: AsrModel, tmp_path: Path) -> None:
    own = recogniser.adapter_state(model)
    state = foreign(own, PEFT)
    loras = {name: weight for name, weight in state.items() if "lora" in name}
    rest = {name: weight for name, weight in state.items() if name not in loras}
    torch.save({"step": 7, "trainable": {"projector": rest, "lora": loras}}, tmp_path / "adapter.pt")
    read = weights.read_state(tmp_path / "adapter.pt")
    matches = importer.match(shapes(read), shapes(own))
    importer.refuse_partial(matches, "adapter")
    assert all(torch.equal(read[theirs], own[ours]) for theirs, ours in matches.names.items())


def test_a_checkpoint_with_a_foreign_adapter_loads(model: AsrModel, tmp_path: Path) -> None:
    """The names in the published adapter are not known."""
    checkpoint.save(model, tmp_path, dtype=torch.float32)
    path = tmp_path / "adapter.safetensors"
    state = foreign(recogniser.adapter_state(model), PEFT)
    save_file(state, path)
    (own, denoised), (read, read_denoised) = passes(model), passes(checkpoint.load(str(tmp_path)))
    assert all(torch.equal(a, b) for a, b in zip([*own, denoised], [*read, read_denoised], strict=True))
    del state["audio_projector.in_proj.bias"]
    save_file(state, path)
    with pytest.raises(ConfigError, match=r"adapter\.safetensors: \d+ weights match, 1 missing \(input\.bias\)"):
        checkpoint.load(str(tmp_path))


def write_peft(folder: Path) -> AsrModel:
    """Write a PEFT folder with LoRA of both phases that changes the texts. Returns the model as PEFT itself runs it."""
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


@pytest.mark.parametrize(("change", "says"), [({"r": 0}, "rank: must be"), ({"lora_alpha": -1}, "alpha: must be")])
def test_lora_with_impossible_numbers_is_one_line(tmp_path: Path, change: dict[str, object], says: str) -> None:
    tree = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **change}
    (tmp_path / "adapter_config.json").write_text(json.dumps(tree))
    name = "base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(4, 8)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=rf"adapter_config\.json: {says}"):
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
    assert torch.equal(weights.read_state(tmp_path / "adapter.pt")["projector.in_proj.bias"], tensor)
    (tmp_path / "text.pt").write_bytes(b"no weights")
    (tmp_path / "cut.safetensors").write_bytes(b"\x07")
    torch.save({"a": {1: tensor}, "a.1": tensor}, tmp_path / "twice.pt")
    for name in ("text.pt", "cut.safetensors", "twice.pt", "none.pt"):
        for read in (weights.read_state, weights.shapes):
            with pytest.raises(ConfigError, match=name) as raised:
                read(tmp_path / name)
            assert "\n" not in str(raised.value)


LEAVES = st.one_of(
    st.integers(1, 3).map(lambda length: torch.zeros(length)),
    st.none() | st.integers() | st.text(max_size=3) | st.floats() | st.booleans(),
    st.just(argparse.Namespace(rate=0.1)),
)
KEYS = st.text("ab.01", min_size=1, max_size=3) | st.integers(0, 3)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)


def tensors_in(tree: Any) -> int:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return sum(map(tensors_in, tree)) if isinstance(tree, list) else int(isinstance(tree, Tensor))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_no_tensor_of_a_torch_file_is_lost_or_the_file_is_refused(tree: Any, tmp_path: Path) -> None:
    """Two names may become one when they are joined with dots."""
    path = tmp_path / "any.pt"
    torch.save(tree, path)
    refused = ""
    try:
        assert len(weights.read_state(path)) == tensors_in(tree)
    except ConfigError as err:
        refused = str(err)
    assert not refused or ("two weights are called" in refused and tensors_in(tree) > 1)


class Trap:
    """An object of a class whose code leaves a file where it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = {"weight": torch.arange(2.0)}

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w", torch.ones(1)), {"kept": self.kept}


def test_an_object_in_a_torch_file_is_not_made_but_its_tensors_count(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save({"trap": Trap(tmp_path / "sprung"), "module": torch.nn.Linear(2, 1)}, path)
    read = weights.read_state(path)
    assert not (tmp_path / "sprung").exists()
    assert {name: tuple(weight.shape) for name, weight in read.items()} == {
        "trap.arguments.2": (1,),
        "trap.kept.weight": (2,),
        "module._parameters.weight": (1, 2),
        "module._parameters.bias": (1,),
    }


def test_a_projector_that_was_saved_as_a_whole_module_is_read(model: AsrModel, tmp_path: Path) -> None:
    own = recogniser.adapter_state(model)
    loras = {name: weight for name, weight in own.items() if name.startswith("lora.")}
    torch.save({"projector": model.projector, "lora": foreign(loras, PEFT)}, tmp_path / "adapter.pt")
    read = weights.read_state(tmp_path / "adapter.pt")
    matches = importer.match(shapes(read), shapes(own))
    importer.refuse_partial(matches, "adapter")
    assert all(torch.equal(read[theirs], own[ours]) for theirs, ours in matches.names.items())


SAVED: dict[str, Callable[[Path, dict[str, Tensor]], object]] = {
    "a torch file": lambda folder, state: torch.save({"step": 7, "trainable": state}, folder / "adapter.pt"),
    "another suffix": lambda folder, state: torch.save(state, folder / "adapter.bin"),
    "in another precision": lambda folder, state: torch.save(
        {name: weight.to(torch.float64) for name, weight in state.items()}, folder / "adapter.pth"
    ),
}


@pytest.mark.parametrize("saved", SAVED)
def test_a_folder_whose_adapter_is_a_torch_file_loads(
    model: AsrModel, tmp_path: Path, saved: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(model, tmp_path, dtype=torch.float32)
    (tmp_path / "adapter.safetensors").unlink()
    state = foreign(recogniser.adapter_state(model), PEFT)
    SAVED[saved](tmp_path, state)
    with caplog.at_level("INFO", "pipeline"):
        loaded = checkpoint.load(str(tmp_path)).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())
    assert any("audio_projector.norm.weight -> norm.weight" in line for line in caplog.messages)
    described = layout.describe(str(tmp_path)).weights_hash
    SAVED[saved](tmp_path, state | {"audio_projector.norm.bias": state["audio_projector.norm.bias"] + 1})
    assert layout.describe(str(tmp_path)).weights_hash != described
    SAVED[saved](tmp_path, {name: weight for name, weight in state.items() if "norm" not in name})
    with pytest.raises(ConfigError, match=r"adapter\.\w+: \d+ weights match, 2 missing \(norm\.weight, norm\.bias\)"):
        checkpoint.load(str(tmp_path))


def test_our_own_names_need_no_table(model: AsrModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint.save(model, tmp_path, dtype=torch.float32)
    with caplog.at_level("INFO", "pipeline"):
        checkpoint.load(str(tmp_path))
    assert caplog.messages == []
