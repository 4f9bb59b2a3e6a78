"""The cluster manifests say what this version of the jobs understands."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import RunConfig, load
from pipeline.evaluation.settings import EvaluateConfig

ROOT = Path(__file__).parents[2]


def manifest(name: str) -> dict[str, Any]:
    """The RayJob of a manifest."""
    spec = dict(yaml.safe_load((ROOT / "infra" / name).read_text())["spec"])
    return dict(spec.get("jobTemplate", spec))


@pytest.mark.parametrize(
    ("name", "job", "schema"),
    [("rayjob.yaml", "transcribe", RunConfig), ("evaluate-cronjob.yaml", "evaluate", EvaluateConfig)],
)
def test_the_entrypoint_is_a_valid_command(name: str, job: str, schema: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(manifest(name)["entrypoint"])
    assert words[:4] == ["python", "-m", f"jobs.{job}", "--config"]
    config = load(schema, words[4], words[5:])
    assert config.compute.replicas_min == manifest(name)["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"]


@pytest.mark.parametrize("name", ["rayjob.yaml", "evaluate-cronjob.yaml"])
def test_ray_on_the_cluster_is_the_ray_of_the_lock(name: str) -> None:
    assert manifest(name)["rayClusterSpec"]["rayVersion"] == version("ray")


def test_the_lock_has_the_versions_of_the_project() -> None:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    locked = {name.lower(): number for name, number in lines}
    project = re.findall(r'^    "([\w-]+)(?:\[.*\])?==([\d.]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert len(project) > 20
    assert {name: locked[name] for name, _ in project} == dict(project)
