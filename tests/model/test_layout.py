"""The layout on disk: what a job learns of a model without loading it; any fault is one line."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import LANGUAGES, ConfigError, RunConfig
from pipeline.config_file import load
from pipeline.model.files import layout
from pipeline.model.new_model import SizeSection, asr_config
from pipeline.planning.fingerprint import make_fingerprint

FILES = ("config.json", "tokenizer.json", *layout.WEIGHTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a checkpoint; the content of the weights does not matter here."""
    for number, name in enumerate(FILES):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]) * 10)
    config = asr_config(SizeSection(window_seconds=6.0, canvas_length=24), 2048)
    (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def refusal(name: Path | str) -> str:
    """The one line with which `describe` fails."""
    with pytest.raises(ConfigError) as raised:
        layout.describe(str(name))
    message = str(raised.value)
    assert "\n" not in message
    return message


def weights_hash(folder: Path) -> str:
    return layout.describe(str(folder)).weights_hash


def test_describe_says_what_a_job_must_know(folder: Path) -> None:
    info = layout.describe(str(folder))
    assert (info.name, info.revision, info.window_seconds, info.canvas_length) == ("tiny", "local", 6.0, 24)
    assert info.languages == LANGUAGES
    assert layout.describe(str(folder), "v2").revision == "v2"
    assert layout.describe(str(folder)) == info


def test_sizes_follow_from_the_config(folder: Path) -> None:
    config = layout.read_config(folder)
    assert config.window_samples == 96_000
    assert config.audio_slots == 38  # 300 frames -> 150 -> 75 -> 38
    assert (config.hidden_size, config.vocab_size) == (192, 2048)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refusal(folder)


@pytest.mark.parametrize("name", FILES[1:])
def test_the_hash_changes_with_every_file(folder: Path, name: str) -> None:
    before = weights_hash(folder)
    (folder / name).write_bytes(b"\7" + (folder / name).read_bytes()[1:])
    assert weights_hash(folder) != before


def test_the_hash_knows_which_file_holds_what(folder: Path) -> None:
    before = weights_hash(folder)
    encoder, adapter = (folder / name for name in layout.WEIGHTS[:2])
    one, other = encoder.read_bytes(), adapter.read_bytes()
    encoder.write_bytes(other)
    adapter.write_bytes(one)
    assert weights_hash(folder) != before


def test_the_hash_changes_with_the_prompt_and_does_not_with_the_card(folder: Path) -> None:
    before = weights_hash(folder)
    (folder / "MODEL_CARD.md").write_text("a card")
    assert weights_hash(folder) == before
    edit(folder, lambda tree: tree["prompt"].update(after="<audio|><turn|>"))
    assert weights_hash(folder) != before


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "\x00"])
def test_a_config_that_is_no_json_object_is_named(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json" in refusal(folder)


def test_a_config_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\xff")
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("version", ["fullcanvas/2", None, 1])
def test_another_format_version_is_refused(folder: Path, version: object) -> None:
    edit(folder, lambda tree: tree.update(format=version))
    message = refusal(folder)
    assert repr(version) in message
    assert "fullcanvas/1" in message


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda tree: tree.update(window_seconds=31), "window_seconds"),
        (lambda tree: tree.update(canvas_length=0), "canvas_length"),
        (lambda tree: tree.update(colour="red"), "colour"),
        (lambda tree: tree["encoder"].pop("d_model"), "encoder.d_model"),
        (lambda tree: tree["tokens"].update(eos=1), "tokens.eos"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, change: Callable[[dict[str, Any]], object], key: str) -> None:
    edit(folder, change)
    assert f"config.json: {key}: " in refusal(folder)


def test_names_that_are_no_model_are_refused(tmp_path: Path) -> None:
    assert "nowhere" in refusal(tmp_path / "nowhere")


def test_the_hash_of_a_folder_is_that_of_its_files_in_order(folder: Path) -> None:
    """It is in the fingerprint of every output. With another formula no older output could be resumed."""
    digests = b"".join(hashlib.sha256((folder / name).read_bytes()).digest() for name in FILES)
    assert weights_hash(folder) == hashlib.sha256(digests).hexdigest()[:16]


def test_shards_count_as_the_backbone(folder: Path) -> None:
    backbone = folder / "backbone"
    (backbone / "model.safetensors").rename(backbone / "model-00001-of-00002.safetensors")
    (backbone / "model-00002-of-00002.safetensors").write_bytes(b"more")
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = backbone / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"one": names[0], "two": names[1], "three": names[1]}}))
    before = weights_hash(folder)
    (backbone / names[1]).write_bytes(b"other")
    assert weights_hash(folder) != before
    (backbone / names[1]).unlink()
    assert names[1] in refusal(folder)
    index.write_text("{}")
    assert "model.safetensors.index.json" in refusal(folder)


def test_it_needs_no_torch() -> None:
    """Drivers import it, and they must start and resume within a second."""
    code = "import sys, pipeline.model.files.layout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_the_models_defaults_count_where_the_user_sets_nothing(folder: Path) -> None:
    edit(folder, lambda tree: tree.update(defaults={"denoise": {"max_steps": 8, "seed": 3}, "segment": {"pad_ms": 50}}))
    words = ["source.uri=in", "output.uri=out", f"model.name={folder}", "denoise.seed=5", "denoise.early_stop=false"]
    config, info = layout.resolve(load(RunConfig, None, words))
    assert (config.denoise.max_steps, config.denoise.seed, config.denoise.early_stop) == (8, 5, False)
    assert (config.segment.pad_ms, config.segment.min_speech_ms) == (50, 100)
    assert layout.resolve(config)[0] == config
    assert layout.resolve(pickle.loads(pickle.dumps(config)))[0] == config
    shown = make_fingerprint(config, weights=info.weights_hash)
    assert (shown["denoise.max_steps"], shown["segment.pad_ms"]) == (8, 50)
    other, _ = layout.resolve(load(RunConfig, None, [*words, "denoise.max_steps=16", "segment.pad_ms=200"]))
    assert (other.denoise.max_steps, other.segment.pad_ms) == (16, 200)  # ours, set by the user


@pytest.mark.parametrize("defaults", [{"denoise": {"max_step": 8}}, {"denoise": {"max_steps": 0}}, {"compute": {}}])
def test_defaults_that_are_no_settings_are_refused_by_name(folder: Path, defaults: dict[str, Any]) -> None:
    edit(folder, lambda tree: tree.update(defaults=defaults))
    with pytest.raises(ConfigError, match=r"config\.json: defaults"):
        layout.describe(str(folder))
