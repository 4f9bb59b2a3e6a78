"""The locks hold what is needed, and the image has what runs the jobs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def locked(name: str) -> dict[str, str]:
    """The pins of a lock: canonical name to version."""
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): number for package, number in lines}


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
RUNTIME = [
    *PROJECT["dependencies"],
    *(text for name in ("browse", "evaluate", "labels", "train") for text in EXTRAS[name]),
]


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
    assert [line[1] for line in words if line[0] == "USER"] == ["1000"]  # a number: Kubernetes sees that it is not root
    assert words.index(["USER", "1000"]) < min(at for at, line in enumerate(words) if "make" in line[:2])
    stages = {line[3]: line[1] for line in words if line[0] == "FROM"}
    assert {stages["cpu"], stages["cuda"]} == {"packages-cpu", "packages-cuda"}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", stages["base"])
    assert [line[1:] for line in words if line[0] == "ENTRYPOINT"] == [['["fullcanvas"]']]
    assert all("LOCKS=requirements.lock" in line for line in words if line[:2] == ["RUN", "make"])
    assert not {"pytest", "mypy", "ruff", "peft"} & set(locked("requirements.lock"))
    assert PROJECT["scripts"] == {"fullcanvas": "jobs.__main__:main"}


def test_hadolint_has_nothing_to_say_about_the_image() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("needs hadolint")
    subprocess.run([hadolint, ROOT / "infra/Dockerfile"], check=True)


def test_what_goes_into_the_image_is_what_builds_the_package_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert lines[-1] == "**/__pycache__"
    kept = {line.removeprefix("!") for line in lines[1:-1]}
    packages = {pattern.rstrip("*") for pattern in PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    built = {PROJECT["readme"], *PROJECT["license-files"], "Makefile", "pyproject.toml", "requirements.lock"}
    assert kept == packages | built | {"configs"}  # pipeline/configs is a link to it
    assert all((ROOT / name).exists() for name in kept)
