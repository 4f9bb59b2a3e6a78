"""Which engine reads which checkpoint, on this machine and on the hub; the table has no line that cannot run."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.model.engines import ENGINES, Engine, engine_of, is_hub_id
from pipeline.model.files import layout
from tests.model.test_whisper_layout import refusal
from tests.support.small_whisper import edit, save_whisper

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"  # pragma: allowlist secret


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "small")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "whisper-small"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["WhisperForAudioClassification"]}, 'architecture ["WhisperForAudioClassification"]'),
        ({"architectures": ["Wav2Vec2ForPreTraining"]}, 'architecture ["Wav2Vec2ForPreTraining"]'),
        ({"architectures": ["Wav2Vec2ForCTC", "X"]}, 'architecture ["Wav2Vec2ForCTC", "X"]'),
        ({"architectures": None}, 'architecture "whisper"'),
        ({"architectures": 7}, "architecture 7"),
    ],
)
def test_another_architecture_is_refused(folder: Path, changes: dict[str, Any], named: str) -> None:
    edit(folder / "config.json", **changes)
    message = refusal(folder)
    assert named in message
    assert "WhisperForConditionalGeneration, every ...ForCTC and fullcanvas/1" in message


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:7]])
def test_a_name_of_the_hub_needs_a_commit(revision: str | None) -> None:
    assert "openai/whisper-small: no such folder; from the hub it needs model.revision" in refusal(
        "openai/whisper-small", revision
    )


OFFLINE = """
import shutil, sys
from pipeline.config import ConfigError
from pipeline.model.files import layout
saved, cached, commit = sys.argv[1:]
try:
    layout.describe("openai/whisper-small", commit)
except ConfigError as err:
    print(err)
shutil.copytree(saved, cached)
print(layout.describe("openai/whisper-small", commit))
sys.exit("torch" in sys.modules)
"""


def test_offline_a_name_of_the_hub_is_taken_from_the_cache_or_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    """In a process of its own: the variables count from the start. The driver needs no torch for it."""
    cached = tmp_path / "hub/models--openai--whisper-small/snapshots" / COMMIT
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(saved), str(cached), COMMIT],
        cwd=ROOT,
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    absent, found = done.stdout.splitlines()
    assert absent.startswith(f"model.name: openai/whisper-small@{COMMIT[:12]}: not in the cache (")
    assert "HF_HUB_OFFLINE is set" in absent
    assert "name='openai/whisper-small'" in found
    assert f"revision='{COMMIT}'" in found
    assert layout.describe(str(saved)).weights_hash in found


@pytest.mark.parametrize(
    ("name", "expected"),
    [("openai/whisper-small", True), ("tiny", False), ("/models/x", False), ("./models/x", False), ("a/b/c", False)],
)
def test_only_owner_and_name_is_a_name_of_the_hub(
    name: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name) is expected


def test_a_folder_that_is_there_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai/whisper-small").mkdir(parents=True)
    assert not is_hub_id("openai/whisper-small")


@pytest.mark.parametrize(
    ("config", "engine"),
    [
        ({"format": "fullcanvas/1", "model_type": "whisper"}, "diffusion"),
        ({}, "diffusion"),  # its reader says that there is no format
        ({"architectures": ["WhisperForConditionalGeneration"]}, "whisper"),
        ({"architectures": ["ParakeetForCTC"], "model_type": "parakeet_ctc"}, "ctc"),
    ],
)
def test_config_json_says_which_engine_reads_a_folder(tmp_path: Path, config: dict[str, Any], engine: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert engine_of(tmp_path).name == engine


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_engine_can_be_started_and_has_its_line_in_the_documentation(engine: Engine) -> None:
    assert inspect.signature(import_module(engine.module).start).parameters.keys() == {"run", "device"}
    assert f"| `{engine.name}` |" in (ROOT / "docs/engines.md").read_text()
