"""The doctor on the model: files, hashes, hub, memory; every fault is one row, and the token stays unseen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import ComputeConfig, ModelConfig
from pipeline.doctor import model_check
from pipeline.doctor.rows import Result, guarded
from pipeline.doctor.settings import DoctorConfig
from pipeline.model.files import hub
from tests.model.test_hub import REVISION, folder, model, saved, server
from tests.support.hub_server import TOKEN, Hub

__all__ = ["folder", "model", "saved", "server"]  # fixtures
CHECKS = {
    "model": model_check.files,
    "adapter": model_check.adapter,
    "present": model_check.present,
    "hub": model_check.hub_access,
}


def settings(path: Path | str, revision: str | None = None, **compute: Any) -> DoctorConfig:
    return DoctorConfig(model=ModelConfig(name=str(path), revision=revision), compute=ComputeConfig(**compute))


def rows(check: str, config: DoctorConfig) -> list[Result]:
    return guarded(check, lambda: CHECKS[check](config), seconds=60)


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A whole model with its manifest, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_a_whole_model_is_described_and_its_hashes_are_compared(copy: Path) -> None:
    described, compared = rows("model", settings(copy))
    assert (described.state, compared.state) == ("ok", "ok")
    assert f"{len(hub.manifest(copy))} files have the SHA-256" in compared.finding
    (there,) = rows("present", settings(copy))
    assert there.state == "ok"
    (copy / hub.MANIFEST).unlink()
    assert "nothing to compare with" in rows("model", settings(copy))[1].finding


def test_the_adapter_is_matched_before_anything_is_loaded(copy: Path) -> None:
    (row,) = rows("adapter", settings(copy))
    weights = load_file(copy / hub.PARTS["adapter"])
    assert (row.check, row.state) == ("model adapter", "ok")
    assert row.finding == f"{len(weights)} weights of the adapter are at their places"
    (copy / hub.PARTS["adapter"]).unlink()
    theirs = {f"base.{name}": weight for name, weight in weights.items()}
    torch.save({"model": theirs}, copy / "adapter.pt")
    assert rows("adapter", settings(copy)) == [row]
    del theirs["base.norm.weight"]
    torch.save({"model": theirs}, copy / "adapter.pt")
    (refused,) = rows("adapter", settings(copy))
    assert refused.state == "FAIL"
    assert "1 unmatched (model.base.norm.bias), 2 missing (norm.weight, norm.bias)" in refused.finding
    assert "projector" in refused.advice
    (copy / "adapter.pt").unlink()
    assert rows("adapter", settings(copy)) == []  # the row `model` names the file


def test_a_model_that_is_still_on_the_hub_has_no_row_of_its_adapter(folder: Path, server: Hub) -> None:
    assert rows("adapter", settings(folder, REVISION)) == []


def test_constants_beside_the_adapter_are_compared_and_a_difference_names_the_key(copy: Path) -> None:
    (copy / "inference.py").write_text("canvas = 8")
    agree = rows("adapter", settings(copy))[1]
    assert (agree.state, agree.finding) == ("ok", "1 constants beside the adapter are ours")
    (copy / "inference.py").write_text("canvas, steps = 8, 3")
    differs = rows("adapter", settings(copy))[1]
    assert (differs.check, differs.state) == ("model constants", "warn")
    assert differs.finding.startswith("denoise.max_steps: 3 in inference.py:1")
    assert differs.advice.startswith("set denoise.max_steps to 3")


def _missing(copy: Path) -> None:
    (copy / hub.PARTS["adapter"]).unlink()


def _format(copy: Path) -> None:
    tree = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(tree | {"format": "fullcanvas/9"}))


@pytest.mark.parametrize(("damage", "says"), [(_missing, "adapter.safetensors"), (_format, "'fullcanvas/9'")])
def test_a_missing_file_and_a_wrong_format_fail_here_and_on_a_node(copy: Path, damage: Any, says: str) -> None:
    damage(copy)
    for check in ("model", "present"):
        last = rows(check, settings(copy))[-1]
        assert last.state == "FAIL"
        assert says in last.finding
    assert rows("present", settings(copy))[-1].advice == model_check.ON_EVERY_NODE


def test_a_file_with_another_hash_fails(copy: Path) -> None:
    path = copy / hub.PARTS["encoder"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    described, compared = rows("model", settings(copy))
    assert described.state == "ok"
    assert compared.state == "FAIL"
    assert "encoder.safetensors: its SHA-256 is" in compared.finding


def test_a_model_that_is_nowhere_fails() -> None:
    (row,) = rows("model", settings("/no/such/model"))
    assert row == Result("model", "FAIL", "model.name: /no/such/model: no config.json in /no/such/model")


def test_each_missing_part_is_told_with_its_size_and_a_gated_one_fails(folder: Path, server: Hub) -> None:
    reached, *parts = rows("hub", settings(folder, REVISION))
    assert reached.state == "ok"
    assert "no token; the model lacks encoder, adapter, backbone" in reached.finding
    states = {row.finding.split(":")[0]: row.state for row in parts}
    assert states == {"encoder": "ok", "adapter": "ok", "backbone": "FAIL"}
    assert "to fetch" in parts[0].finding
    assert f"accept its terms on {server.address}/google/backbone" in parts[2].advice


def test_with_a_token_all_parts_are_open_and_the_token_is_not_shown(
    folder: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shown = rows("hub", settings(folder, REVISION))
    assert {row.state for row in shown} == {"ok"}
    assert "a token is there" in shown[0].finding
    assert TOKEN not in str(shown)
    assert not [request for request in server.requests if "resolve" in request]  # nothing is fetched


def test_an_unknown_commit_fails(folder: Path, server: Hub) -> None:
    shown = rows("hub", settings(folder, REVISION.replace("e" * 40, "f" * 40)))
    assert "encoder: openai/whisper@ffffffffffff: no such commit" in [
        row.finding for row in shown if row.state == "FAIL"
    ]


def test_a_hub_that_is_not_reached_fails_only_where_it_is_needed(
    folder: Path, copy: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (needed,) = rows("hub", settings(folder, REVISION))
    (idle,) = rows("hub", settings(copy))
    assert (needed.state, idle.state) == ("FAIL", "warn")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (needed,) = rows("hub", settings(folder, REVISION))
    (idle,) = rows("hub", settings(copy))
    assert (needed.state, idle.state) == ("FAIL", "ok")
    assert "offline" in needed.finding


GPU = {"name": "a GPU", "free": 80e9, "total": 85e9}


def test_memory_is_computed_beforehand_against_the_gpu_or_the_machine(copy: Path) -> None:
    (here,) = model_check.memory(settings(copy), [])
    assert here.state == "ok"
    assert "free main memory" in here.finding
    (fits,) = model_check.memory(settings(copy, gpus_per_replica=1, canvases=4), [GPU])
    assert fits.state == "ok"
    (small,) = model_check.memory(settings(copy, gpus_per_replica=1, canvases=4), [GPU | {"free": 1e9}])
    assert small.state == "FAIL"
    assert "4 canvases need" in small.finding
    (shared,) = model_check.memory(settings(copy, gpus_per_replica=0.01, canvases=4), [GPU])
    assert shared.state == "FAIL"
    assert list(model_check.memory(settings("/no/such/model"), [GPU])) == []


def test_a_model_that_is_still_on_the_hub_has_no_row_of_memory_and_nothing_is_fetched(
    folder: Path, server: Hub
) -> None:
    wanted = settings(folder, REVISION, gpus_per_replica=1, canvases=4)
    assert list(model_check.memory(wanted, [GPU])) == []
    assert not server.requests
