"""Checkpoints: loading gives what was saved, and any fault of a folder is one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import ConfigError
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint, layout, weights
from pipeline.model.recogniser import AsrModel
from tests.model.test_engine import DENOISE
from tests.support.allocations import Allocations
from tests.support.small_model import hearing_model, noise_segment

FILES = (
    "config.json",
    "tokenizer.json",
    "encoder.safetensors",
    "adapter.safetensors",
    "backbone/model.safetensors",
)


@pytest.fixture(scope="module")
def model() -> AsrModel:
    """A model whose weights are exact in float16."""
    made = hearing_model(3)
    for parameter in made.parameters():
        parameter.copy_(parameter.half().float())
    return made


@pytest.fixture(scope="module")
def saved(model: AsrModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    checkpoint.save(model, path)
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def one_line(call: Callable[[], object], *parts: str) -> None:
    """The call must fail with one line that contains all parts."""
    with pytest.raises(ConfigError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def texts(model: AsrModel) -> list[str | None]:
    engine = Engine(model, DENOISE, slots=2)
    answers = engine.transcribe([noise_segment(n, "en") for n in range(4)])
    engine.close()
    return [answer.text for answer in answers]


def test_a_loaded_model_has_the_saved_weights_and_says_the_same(model: AsrModel, saved: Path) -> None:
    loaded = checkpoint.load(str(saved))
    assert loaded.config == model.config
    own, read = model.state_dict(), loaded.state_dict()
    assert own.keys() == read.keys()
    assert all(torch.equal(own[name], read[name]) for name in own)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
    assert texts(loaded) == texts(model)


def test_loading_twice_gives_equal_models(saved: Path) -> None:
    one, other = checkpoint.load(str(saved)).state_dict(), checkpoint.load(str(saved)).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_saving_what_was_loaded_gives_the_same_files(saved: Path, tmp_path: Path) -> None:
    checkpoint.save(checkpoint.load(str(saved)), tmp_path)
    assert all((tmp_path / name).read_bytes() == (saved / name).read_bytes() for name in FILES)


def test_tied_weights_are_stored_once_and_tied_again(saved: Path) -> None:
    stored = load_file(saved / "backbone" / "model.safetensors")
    assert "model.decoder.embed_tokens.weight" in stored
    assert "lm_head.weight" not in stored
    assert not [
        name
        for name in stored
        if name.startswith("model.encoder.language_model.") and not name.endswith("layer_scalar")
    ]
    assert all(tensor.dtype == torch.float16 for tensor in stored.values())
    loaded = checkpoint.load(str(saved)).backbone
    assert loaded.lm_head.weight is loaded.model.decoder.embed_tokens.weight
    assert (
        loaded.model.encoder.language_model.layers[1].mlp.up_proj.weight
        is loaded.model.decoder.layers[1].mlp.up_proj.weight
    )


def test_a_model_may_have_the_encoder_of_an_embedded_one(tmp_path: Path) -> None:
    """Then its folder has none, wherever it lies."""
    model = checkpoint.load("tiny")
    checkpoint.save(model, tmp_path, shared_encoder="whisper-base")
    assert not (tmp_path / "encoder.safetensors").exists()
    loaded = checkpoint.load(str(tmp_path))
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(weight, loaded.encoder.state_dict()[name])
    tree = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(tree | {"hub": {"shared_encoder": "nobody"}}))
    with pytest.raises(ConfigError, match=r"assets/nobody/encoder\.safetensors: No such file"):
        checkpoint.load(str(tmp_path))


def test_the_encoder_of_an_embedded_whisper_is_cut_to_the_window() -> None:
    model = checkpoint.load("tiny")
    whole = weights.read_state(layout.ASSETS / "whisper-base" / "encoder.safetensors")
    table = whole["model.encoder.embed_positions.weight"]
    frames = model.config.encoder_frames
    assert table.shape == (1500, 512)
    assert torch.equal(model.encoder.whisper.embed_positions.weight, table[:frames].float())


def test_bfloat16_transcribes_and_keeps_computed_buffers_in_float32(saved: Path) -> None:
    loaded = checkpoint.load(str(saved), dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.bfloat16}
    exact = dict(checkpoint.load(str(saved)).named_buffers())
    computed = [n for n, b in loaded.named_buffers() if torch.equal(b, exact[n]) and b.dtype == torch.float32]
    assert any(name.endswith("log_mel.filters") for name in computed)
    assert any(name.endswith("decoder.rotary_emb.full_attention_inv_freq") for name in computed)
    assert all(text is not None for text in texts(loaded))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_loaded_in_place_is_one_built_and_cast(model: AsrModel, saved: Path, dtype: torch.dtype) -> None:
    """Weights cast from what was saved; computed buffers as an ordinary construction makes them, in float32."""
    loaded = checkpoint.load(str(saved), dtype=dtype)
    for kind in ("parameters", "buffers"):
        own, read = (dict(getattr(m, f"named_{kind}")(remove_duplicate=False)) for m in (model, loaded))
        assert own.keys() == read.keys()
        for name, value in own.items():
            module, _, leaf = name.rpartition(".")
            computed = leaf in model.get_submodule(module)._non_persistent_buffers_set
            assert torch.equal(read[name], value if computed else value.to(dtype)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_allocates_every_weight_once(dtype: torch.dtype) -> None:
    """In its final dtype. The files are only mapped into memory."""
    with Allocations() as made:
        loaded = checkpoint.load("tiny", dtype=dtype)
    assert made.peak <= 1.1 * sum(parameter.nbytes for parameter in loaded.parameters())


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    one_line(lambda: checkpoint.load(str(folder)), name)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe garbage", b"[]", b"{}"], ids=["empty", "garbage", "list", "object"]
)
@pytest.mark.parametrize("name", FILES)
def test_a_corrupt_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    one_line(lambda: checkpoint.load(str(folder)), name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_in_the_middle_is_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    one_line(lambda: checkpoint.load(str(folder)), name)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("encoder.safetensors", "conv1.weight"),
        ("encoder.safetensors", "embed_positions.weight"),
        ("adapter.safetensors", "output.bias"),
        ("backbone/model.safetensors", "model.decoder.layers.0.mlp.up_proj.weight"),
        ("backbone/model.safetensors", "model.decoder.embed_tokens.weight"),
    ],
)
def test_a_missing_weight_is_named_with_its_file(folder: Path, name: str, key: str) -> None:
    weights = load_file(folder / name)
    del weights[key]
    save_file(weights, folder / name)
    one_line(lambda: checkpoint.load(str(folder)), name, key)


@pytest.mark.parametrize("name", FILES[2:])
def test_a_foreign_weight_is_named_with_its_file(folder: Path, name: str) -> None:
    save_file(load_file(folder / name) | {"someone.else": torch.zeros(2)}, folder / name)
    one_line(lambda: checkpoint.load(str(folder)), name, "someone.else")


def test_a_weight_of_another_shape_is_named_with_its_file(folder: Path) -> None:
    path = folder / "adapter.safetensors"
    save_file(load_file(path) | {"output.bias": torch.zeros(2)}, path)
    one_line(lambda: checkpoint.load(str(folder)), "adapter.safetensors", "output.bias")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tree: tree.update(format="fullcanvas/2"), "fullcanvas/1"),
        (lambda tree: tree["projector"].update(subsample=3), "power of two"),
        (lambda tree: tree["tokens"].update(audio=99_999), "tokens.audio"),
        (lambda tree: tree["prompt"]["languages"].pop("hi"), "'hi'"),
        (lambda tree: tree["prompt"].update(before="<|audio|>{language}"), "once"),
        (lambda tree: tree["prompt"]["languages"].update(hi="<|hi|><|hi|>"), "one length"),
        (lambda tree: tree["backbone"].pop("text_config"), "text_config"),
        (lambda tree: tree["backbone"]["text_config"].update(hidden_size="wide"), "wide"),
        (lambda tree: tree["backbone"]["text_config"].update(num_hidden_layers="three"), "num_hidden_layers"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    edit(folder, change)
    one_line(lambda: checkpoint.load(str(folder)), "config.json", named)


@pytest.mark.parametrize(
    ("key", "value"),
    [("rms_norm_eps", 1e-5), ("sliding_window", 512), ("top_k_experts", 1), ("final_logit_softcapping", 7)],
)
def test_numbers_that_the_backbone_itself_has_otherwise_are_named(folder: Path, key: str, value: float) -> None:
    """All shapes fit, but the model would compute something else."""
    path = folder / "backbone" / "config.json"
    tree = json.loads(path.read_text())
    tree["text_config"][key] = value
    path.write_text(json.dumps(tree))
    one_line(lambda: checkpoint.load(str(folder)), "backbone/config.json", f"{key}: ")
    path.write_text("[]")
    one_line(lambda: checkpoint.load(str(folder)), "backbone/config.json")


def test_prompts_hold_the_audio_vectors_between_the_language_and_the_end(model: AsrModel) -> None:
    vectors = torch.randn(2, model.config.audio_slots, model.config.hidden_size)
    prompt = model.prompt_embeds(vectors, ["de", None])
    assert prompt.shape == (2, model.prompt_length, model.config.hidden_size)
    at = model.prompts["de"].index(model.config.tokens.audio)
    assert torch.equal(prompt[:, at : at + model.config.audio_slots], vectors)
    tokens = model.tokenizer.encode("<bos><|turn><|de|><|audio>", add_special_tokens=False).ids
    embedding = model.backbone.lm_head.weight[tokens] * model.config.hidden_size**0.5
    torch.testing.assert_close(prompt[0, :at], embedding)
    assert not torch.equal(prompt[0, :at], prompt[1, :at])  # the language is named, or not
    assert torch.equal(prompt[0, at + 7 :], prompt[1, at + 7 :])
