"""The cluster manifest says what this version of the job understands."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import RunConfig, load

ROOT = Path(__file__).parent.parent


def manifest() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "infra" / "rayjob.yaml").read_text())["spec"])


def test_the_entrypoint_is_a_valid_command(monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(manifest()["entrypoint"])
    assert words[:4] == ["python", "-m", "jobs.transcribe", "--config"]
    config = load(RunConfig, words[4], words[5:])
    assert config.compute.replicas_min == manifest()["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"]


def test_ray_on_the_cluster_is_the_ray_of_the_lock() -> None:
    assert manifest()["rayClusterSpec"]["rayVersion"] == version("ray")


def test_the_lock_has_the_versions_of_the_project() -> None:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    locked = {name.lower(): number for name, number in lines}
    project = re.findall(r'^    "([\w-]+)(?:\[.*\])?==([\d.]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert len(project) > 20
    assert {name: locked[name] for name, _ in project} == dict(project)
