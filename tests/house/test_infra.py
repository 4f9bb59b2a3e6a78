"""The cluster manifests say what this version of the jobs understands."""

from __future__ import annotations

import re
import shlex
import tomllib
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.config import RunConfig
from pipeline.config_file import load
from pipeline.evaluation.settings import EvaluateConfig

ROOT = Path(__file__).parents[2]


def manifest(name: str) -> dict[str, Any]:
    """The RayJob of a manifest."""
    spec = dict(yaml.safe_load((ROOT / "infra" / name).read_text())["spec"])
    return dict(spec.get("jobTemplate", spec))


@pytest.mark.parametrize(
    ("name", "job", "schema"),
    [
        ("rayjob.yaml", "transcribe", RunConfig),
        ("transcribe-cronjob.yaml", "transcribe", RunConfig),
        ("evaluate-cronjob.yaml", "evaluate", EvaluateConfig),
    ],
)
def test_the_entrypoint_is_a_valid_command(name: str, job: str, schema: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(manifest(name)["entrypoint"])
    assert words[:4] == ["python", "-m", f"jobs.{job}", "--config"]
    config = load(schema, words[4], words[5:])
    assert config.compute.replicas_min == manifest(name)["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"]


@pytest.mark.parametrize("name", ["rayjob.yaml", "transcribe-cronjob.yaml", "evaluate-cronjob.yaml"])
def test_ray_on_the_cluster_is_the_ray_of_the_lock(name: str) -> None:
    assert manifest(name)["rayClusterSpec"]["rayVersion"] == version("ray")


def locked(name: str) -> dict[str, str]:
    """The pins of a lock: canonical name to version."""
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): number for package, number in lines}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
RUNTIME = [*PROJECT["dependencies"], *EXTRAS["evaluate"], *EXTRAS["train"]]


def needed(requirements: list[str]) -> set[str]:
    """Canonical names of these requirements and of everything that they need on this machine, extras included."""
    names, seen, left = set(), set(), [Requirement(text) for text in requirements]
    while left:
        requirement = left.pop()
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        if name == PROJECT["name"]:
            left += [Requirement(text) for extra in requirement.extras for text in EXTRAS[extra]]
            continue
        names.add(name)
        for below in map(Requirement, requires(requirement.name) or []):
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                left.append(below)
    return names


@pytest.mark.parametrize("requirement", [*PROJECT["dependencies"], *(text for name in EXTRAS for text in EXTRAS[name])])
def test_the_lower_bound_of_each_requirement_is_what_the_locks_pin(requirement: str) -> None:
    asked = Requirement(requirement)
    if asked.name == PROJECT["name"]:
        return
    pins = locked("requirements.lock") | locked("requirements-dev.lock") | locked("requirements-bench.lock")
    assert [spec.version for spec in asked.specifier if spec.operator == ">="] == [pins[canonicalize_name(asked.name)]]
    assert pins[canonicalize_name(asked.name)] in asked.specifier


@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch, which brings packages of its own")
def test_the_locks_hold_what_is_needed_and_nothing_else() -> None:
    runtime, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert set(runtime) == needed(RUNTIME)
    assert set(dev) == needed(EXTRAS["dev"]) - set(runtime) - {"pip"}  # pip-audit asks for it; .venv has one


def test_the_image_has_no_tools_of_developers_no_root_and_starts_jobs() -> None:
    lines = (ROOT / "infra/Dockerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert [line[1] for line in words if line[0] == "USER"] == ["fullcanvas"]
    assert words.index(["USER", "fullcanvas"]) < min(at for at, line in enumerate(words) if "make" in line[:2])
    assert [line[1:] for line in words if line[0] == "ENTRYPOINT"] == [['["fullcanvas"]']]
    assert all("LOCKS=requirements.lock" in line for line in words if line[:2] == ["RUN", "make"])
    assert not {"pytest", "mypy", "ruff", "peft"} & set(locked("requirements.lock"))
    assert PROJECT["scripts"] == {"fullcanvas": "jobs.__main__:main"}


@pytest.mark.parametrize("name", ["rayjob.yaml", "transcribe-cronjob.yaml", "evaluate-cronjob.yaml"])
def test_pods_leave_command_to_kuberay_and_find_the_image_where_it_works(name: str) -> None:
    """KubeRay puts its own `command` before `ray start`, which replaces the image's entry point."""
    groups = [manifest(name)["rayClusterSpec"]["headGroupSpec"], *manifest(name)["rayClusterSpec"]["workerGroupSpecs"]]
    for container in (group["template"]["spec"]["containers"][0] for group in groups):
        assert "command" not in container
        assert f"WORKDIR {container['workingDir']}" in (ROOT / "infra/Dockerfile").read_text()
