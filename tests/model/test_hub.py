"""Parts of a model on a hub: pinned to commits, fetched once, used offline; any obstacle is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import ConfigError
from pipeline.model.files import checkpoint, hub, layout
from pipeline.model.recogniser import AsrModel, backbone_state
from tests.support import fp8_checkpoint
from tests.support.hub_server import TOKEN, Hub, serving
from tests.support.small_model import hearing_model

COMMITS = {"encoder": "e" * 40, "adapter": "a" * 40, "backbone": "b" * 40}
REPOSITORIES = {"encoder": "openai/whisper", "adapter": "somebody/adapter", "backbone": "google/backbone"}
REVISION = ",".join(f"{name}@{commit}" for name, commit in COMMITS.items())


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(3)


@pytest.fixture(scope="module")
def saved(model: AsrModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in one folder, with a manifest."""
    path = tmp_path_factory.mktemp("saved")
    checkpoint.save(model, path, dtype=torch.float32)
    hub.write_manifest(path)
    return path


@pytest.fixture
def server(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The model in three repositories (the backbone's is gated), with an empty cache and no token."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    names = {"encoder": "model.safetensors", "adapter": "weights.safetensors", "backbone": "model.safetensors"}
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        for part, repository in REPOSITORIES.items():
            folder = tmp_path / "hub" / repository
            folder.mkdir(parents=True)
            shutil.copy(saved / hub.PARTS[part], folder / names[part])
            (folder / "README.md").write_text("not asked for")
            running.repositories[repository] = (COMMITS[part], folder)
        shutil.copy(saved / "tokenizer.json", tmp_path / "hub" / REPOSITORIES["backbone"])
        running.gated.add(REPOSITORIES["backbone"])
        yield running


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A folder with a config only, which says where the parts are."""
    path = tmp_path / "model"
    path.mkdir()
    tree = json.loads((saved / "config.json").read_text())
    tree["hub"] = {part: {"repo": name, "revision": None} for part, name in REPOSITORIES.items()}
    (path / "config.json").write_text(json.dumps(tree))
    return path


def refusal(folder: Path, revision: str | None = REVISION) -> str:
    """The one line with which loading fails."""
    with pytest.raises(ConfigError) as raised:
        checkpoint.load(str(folder), revision, verify=True)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_model_is_put_together_from_the_hub_and_then_found_offline(
    model: AsrModel, folder: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    loaded = checkpoint.load(str(folder), REVISION, verify=True).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())
    assert not [request for request in server.requests if "README" in request and "resolve" in request]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_TOKEN")
    asked = len(server.requests)
    again = checkpoint.load(str(folder), REVISION).state_dict()
    assert len(server.requests) == asked
    assert all(torch.equal(weight, again[name]) for name, weight in loaded.items())


def published(files: Path, pattern: str, *names: tuple[str, ...]) -> None:
    """Write the adapter again, in one file for each tuple of beginnings of names."""
    state = load_file(files / "weights.safetensors")
    (files / "weights.safetensors").unlink()
    for number, group in enumerate(names):
        part = {f"theirs.{name}": weight for name, weight in state.items() if name.startswith(group)}
        path = files / pattern.format(number)
        torch.save({"trainable": part}, path) if path.suffix == ".pt" else save_file(part, path)


PROJECTOR, ALL = ("input.", "convs.", "output.", "norm."), ("",)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("adapter.pt", (ALL,)),
        ("part{}.pt", (PROJECTOR[:2], PROJECTOR[2:])),
        ("part{}.safetensors", (("norm.",), PROJECTOR[:3])),
    ],
)
def test_a_repository_has_its_adapter_in_any_format_in_one_file_or_several(
    model: AsrModel, folder: Path, server: Hub, pattern: str, names: tuple[tuple[str, ...], ...]
) -> None:
    server.gated.clear()
    published(server.repositories[REPOSITORIES["adapter"]][1], pattern, *names)
    loaded = checkpoint.load(str(folder), REVISION, verify=True).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())


def test_one_adapter_in_two_formats_is_read_once(model: AsrModel, folder: Path, server: Hub) -> None:
    server.gated.clear()
    (server.repositories[REPOSITORIES["adapter"]][1] / "weights.pt").write_bytes(b"not read")
    loaded = checkpoint.load(str(folder), REVISION).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())


def test_two_adapters_in_one_repository_are_refused(folder: Path, server: Hub) -> None:
    server.gated.clear()
    published(server.repositories[REPOSITORIES["adapter"]][1], "stage{}.pt", ALL, ALL)
    message = refusal(folder)
    assert "stage1.pt: trainable.theirs." in message
    assert "is in another file of the adapter as well" in message
    assert "import_model" in message


def test_a_repository_without_weights_is_named(folder: Path, server: Hub) -> None:
    server.gated.clear()
    published(server.repositories[REPOSITORIES["adapter"]][1], "none")
    assert "no file of weights" in refusal(folder)


def test_a_backbone_in_fp8_comes_from_its_repository(
    model: AsrModel, folder: Path, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    wanted = fp8_checkpoint.write(model, tmp_path / "fp8")
    for path in (tmp_path / "fp8" / "backbone").iterdir():
        shutil.copy(path, tmp_path / "hub" / REPOSITORIES["backbone"])
    loaded = backbone_state(checkpoint.load(str(folder), REVISION, verify=True).backbone)[0]
    assert all(torch.equal(wanted[name], weight) for name, weight in loaded.items())
    kept = backbone_state(checkpoint.load(str(folder), REVISION, fp8=True).backbone)[0]
    assert kept["model.decoder.layers.0.experts.down_proj"].dtype == torch.float8_e4m3fn


def test_a_gated_repository_without_a_token_says_how_to_get_one(folder: Path, server: Hub) -> None:
    message = refusal(folder)
    assert "google/backbone" in message
    assert "gated, and there is no token" in message
    assert f"{server.address}/google/backbone" in message
    assert "HF_TOKEN" in message


def test_a_token_without_access_is_told_from_no_token(
    folder: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_another_user")
    assert "gated, and the token has no access" in refusal(folder)


def test_an_unknown_repository_and_an_unknown_commit_are_named(folder: Path, server: Hub) -> None:
    assert "no such commit" in refusal(folder, REVISION.replace("e" * 40, "f" * 40))
    del server.repositories["openai/whisper"]
    assert "openai/whisper" in refusal(folder)
    assert "no such repository" in refusal(folder)


def test_offline_without_a_cache_says_what_to_fetch(folder: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(folder)
    assert "HF_HUB_OFFLINE is set" in message
    assert f"hf download openai/whisper --revision {'e' * 40}" in message
    assert server.requests == []


def test_a_hub_that_cannot_be_reached_is_named(folder: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)  # between its retries
    assert "http://127.0.0.1:1 cannot be reached" in refusal(folder)


def test_a_file_that_the_repository_lacks_is_named(folder: Path, server: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub" / "openai/whisper" / "model.safetensors").unlink()
    server.gated.clear()
    assert "model.safetensors" in refusal(folder)


def test_a_file_that_changed_in_the_cache_is_named(folder: Path, server: Hub) -> None:
    server.gated.clear()
    checkpoint.load(str(folder), REVISION)
    files = hub.locate(folder, layout.read_config(folder).hub, REVISION)
    changed = files.encoder[0].resolve()
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    assert "SHA-256" in refusal(folder)


def test_what_lies_in_the_folder_is_not_fetched(model: AsrModel, folder: Path, saved: Path, server: Hub) -> None:
    for name in ("encoder.safetensors", "adapter.safetensors", "tokenizer.json", "backbone"):
        (shutil.copytree if name == "backbone" else shutil.copy)(saved / name, folder / name)
    loaded = checkpoint.load(str(folder)).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())
    assert server.requests == []
    assert layout.describe(str(folder)).revision == "local"


@pytest.mark.parametrize(
    ("revision", "part"),
    [
        (None, "encoder (openai/whisper), adapter (somebody/adapter), backbone (google/backbone)"),
        (f"encoder@{'e' * 40},backbone@{'b' * 40}", "adapter (somebody/adapter)"),
        ("main", "'main'"),
        ("encoder@main", "'encoder@main'"),
        (f"decoder@{'e' * 40}", "decoder"),
    ],
)
def test_only_commits_pin_a_part(folder: Path, revision: str | None, part: str) -> None:
    with pytest.raises(ConfigError) as raised:
        layout.describe(str(folder), revision)
    assert part in str(raised.value)
    assert "40 hex digits" in str(raised.value)


def test_a_hub_model_is_described_by_its_commits_alone(folder: Path, server: Hub) -> None:
    one = layout.describe(str(folder), REVISION)
    assert one.revision == REVISION
    assert server.requests == []
    other = layout.describe(str(folder), REVISION.replace("a" * 40, "c" * 40))
    assert other.weights_hash != one.weights_hash
    tree = json.loads((folder / "config.json").read_text())
    for part, commit in COMMITS.items():
        tree["hub"][part]["revision"] = commit
    (folder / "config.json").write_text(json.dumps(tree))
    assert layout.describe(str(folder)).revision == REVISION


def test_no_commit_is_invented_for_the_full_size() -> None:
    """We have not seen the repositories, so the user must pin their commits."""
    with pytest.raises(ConfigError) as raised:
        layout.describe(layout.FULL_SIZE)
    for repository in (
        "openai/whisper-small",
        "interfaze-ai/diffusion-gemma-asr-small",
        "google/diffusiongemma-26B-A4B-it",
    ):
        assert repository in str(raised.value)
    info = layout.describe(layout.FULL_SIZE, REVISION)
    assert (info.name, info.window_seconds, info.canvas_length) == (layout.FULL_SIZE, 30.0, 192)


def test_a_hash_that_differs_from_the_manifest_is_named(saved: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    checkpoint.load(str(copy), verify=True)
    path = copy / "adapter.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    message = refusal(copy)
    assert "adapter.safetensors" in message
    assert "SHA-256" in message
    path.unlink()
    assert "adapter.safetensors" in refusal(copy)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": {"config.json": "abc"}}', '{"sha256": 7}'])
def test_a_manifest_that_is_none_is_named(saved: Path, tmp_path: Path, content: str) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    (copy / "manifest.json").write_text(content)
    assert "manifest.json" in refusal(copy)
