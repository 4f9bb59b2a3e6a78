"""The model before and after adapter training: the adapter changes, the frozen files stay byte by byte."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import ConfigError
from pipeline.model import recogniser
from pipeline.model.files import checkpoint, hub, layout
from pipeline.model.files.layout import LoraSpec
from pipeline.training import adapter_model
from tests.support.adapter_case import LORA, config, write_case

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("case")
    write_case(made)
    return made


def digests(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_model_without_lora_starts_with_one_that_adds_nothing(root: Path) -> None:
    settings = config(root, "start")
    model = adapter_model.build(adapter_model.prepare_start(settings), settings, CPU)
    plain = checkpoint.load(str(root / "model"))
    assert model.config.lora == LoraSpec.model_validate(LORA)
    names = adapter_model.trainable(model)
    assert sum(name.startswith("lora.") for name in names) == 2 * (4 + 3) * 2  # the last layer has no v_proj
    assert all(not names[name].any() for name in names if name.endswith(".up"))
    assert all(names[name].any() for name in names if name.endswith(".down"))
    for name, weight in plain.projector.state_dict().items():
        assert torch.equal(names[name], weight)


def test_only_projector_and_lora_are_trainable_and_float32_whatever_the_rest(root: Path) -> None:
    settings = config(root, "bfloat16", model={"dtype": "bfloat16"})
    model = adapter_model.build(adapter_model.prepare_start(settings), settings, CPU)
    wanted = {id(parameter) for parameter in adapter_model.trainable(model).values()}
    for parameter in model.parameters():
        assert parameter.requires_grad == (id(parameter) in wanted)
        assert parameter.dtype == (torch.float32 if id(parameter) in wanted else torch.bfloat16)
    before = {name: p.data_ptr() for name, p in adapter_model.trainable(model).items()}
    with adapter_model.for_inference(model):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(p.data_ptr() == before[name] for name, p in adapter_model.trainable(model).items())


def test_a_gpu_that_an_evaluation_does_not_fit_is_refused_before_anything_is_allocated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(root, "memory")
    start = adapter_model.prepare_start(settings)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    for share, free in ((1.0, "0.9"), (0.5, "0.5")):
        shared = config(root, "memory", compute={"workers": 1, "gpus_per_worker": share})
        says = rf"compute.canvases: .* need .* of GPU memory, and {free} GiB are free: .* model\.dtype=bfloat16$"
        with pytest.raises(ConfigError, match=says):
            adapter_model.build(start, shared, torch.device("cuda"))


def test_a_new_adapter_takes_nothing_of_the_old_one(root: Path) -> None:
    settings = config(root, "new", model={"adapter": "new"})
    old = load_file(root / "model" / "adapter.safetensors")
    new = load_file(adapter_model.prepare_start(settings) / "adapter.safetensors")
    assert not torch.equal(new["input.weight"], old["input.weight"])
    assert float(new["input.weight"].std()) == pytest.approx(float(old["input.weight"].std()), rel=0.3)
    other = load_file(
        adapter_model.prepare_start(config(root, "new-1", model={"adapter": "new"}, seed=1)) / "adapter.safetensors"
    )
    assert not torch.equal(new["input.weight"], other["input.weight"])


def test_what_is_written_differs_from_the_start_in_the_adapter_alone(root: Path) -> None:
    settings = config(root, "written")
    start = adapter_model.prepare_start(settings)
    state = {name: tensor + 1 for name, tensor in load_file(start / "adapter.safetensors").items()}
    out = adapter_model.export(settings, state, "# card")
    before, after = digests(root / "model"), digests(out)
    assert after.keys() == before.keys() | {"MODEL_CARD.md", "manifest.json"}
    assert {name for name in before if before[name] != after[name]} == {"adapter.safetensors", "config.json"}
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert layout.describe(str(out)).name == "model"  # of the folder
    model = checkpoint.load(str(out), verify=True)
    assert all(torch.equal(model_weight, state[name]) for name, model_weight in recogniser.adapter_state(model).items())
    (out / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="SHA-256"):
        checkpoint.load(str(out), verify=True)


def test_a_model_that_was_half_written_again_is_not_compared_with_old_hashes(root: Path) -> None:
    settings = config(root, "half-again")
    state = load_file(adapter_model.prepare_start(settings) / "adapter.safetensors")
    out = adapter_model.export(settings, state, "")
    other = {name: tensor + 1 for name, tensor in state.items()}
    with mock.patch.object(hub, "write_manifest", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        adapter_model.export(settings, other, "")
    taken = recogniser.adapter_state(checkpoint.load(str(out), verify=True))
    assert all(torch.equal(taken[name], tensor) for name, tensor in other.items())


def test_an_adapter_is_trained_further(root: Path) -> None:
    first = config(root, "first")
    state = load_file(adapter_model.prepare_start(first) / "adapter.safetensors")
    out = adapter_model.export(first, {name: tensor + 1 for name, tensor in state.items()}, "")
    again = adapter_model.prepare_start(config(root, "again", model={"name": str(out)}))
    taken = load_file(again / "adapter.safetensors")
    assert all(torch.equal(taken[name], tensor + 1) for name, tensor in state.items())
    with pytest.raises(ConfigError, match=r"^lora: .* has LoRA of rank 4, alpha 8, q_proj"):
        adapter_model.prepare_start(config(root, "other", model={"name": str(out)}, lora={"rank": 8}))
    changed = config(root, "changed", model={"name": str(out), "adapter": "new"}, lora={"rank": 8})
    assert load_file(adapter_model.prepare_start(changed) / "adapter.safetensors")[
        "lora.encoder.layers.0.q_proj.down"
    ].shape == (8, 64)


def test_a_foreign_torch_file_is_trained_further_and_a_wrong_one_is_refused_in_one_line(root: Path) -> None:
    copy = Path(shutil.copytree(root / "model", root / "foreign"))
    own = load_file(copy / "adapter.safetensors")
    (copy / "adapter.safetensors").unlink()
    theirs = {f"base.projector.{name}": weight for name, weight in own.items()}
    torch.save({"model": theirs}, copy / "adapter.pt")
    taken = load_file(
        adapter_model.prepare_start(config(root, "torch", model={"name": str(copy)})) / "adapter.safetensors"
    )
    assert all(torch.equal(taken[name], weight) for name, weight in own.items())
    theirs["base.projector.output.weight"] = theirs["base.projector.output.weight"][:, :-1]
    torch.save({"model": theirs}, copy / "adapter.pt")
    with pytest.raises(ConfigError, match=r"^model\.name: .*2 missing \(output\.weight, output\.bias\)") as raised:
        adapter_model.prepare_start(config(root, "torch-2", model={"name": str(copy)}))
    assert "\n" not in str(raised.value)
