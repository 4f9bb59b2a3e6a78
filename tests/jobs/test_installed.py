"""The package as pip installs it, away from this repository: the command fullcanvas, and what it brings along."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parents[2]
SOURCES = ("pipeline", "jobs", "configs", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built in a copy of it."""
    tree, built = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", str(built), "."]
    subprocess.run(command, cwd=tree, check=True)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fullcanvas` in an environment of its own, which shares the other packages with the one of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "-qq"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--force-reinstall", str(wheel)], check=True)
    return folder / "bin/fullcanvas"


def ran(command: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(command), *words], cwd=folder, capture_output=True, text=True, check=False)


def test_the_wheel_holds_jobs_models_and_configs_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} <= {"pipeline", "jobs", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    for config in (ROOT / "configs").rglob("*"):
        assert config.is_dir() or f"pipeline/configs/{config.relative_to(ROOT / 'configs')}" in names
    assert "pipeline/assets/tiny/config.json" in names


def test_the_installed_command_says_its_version_and_its_name(command: Path, tmp_path: Path) -> None:
    version = ran(command, tmp_path, "--version")
    assert (version.returncode, version.stdout) == (0, f"fullcanvas {pipeline.__version__}\n"), version.stderr
    usage = ran(command, tmp_path, "transcribe", "--help")
    assert usage.returncode == 0, usage.stderr
    assert usage.stdout.startswith("usage: fullcanvas transcribe ")
    assert "fullcanvas transcribe --config configs/transcribe.yaml" in usage.stdout
    assert "source.uri" in usage.stdout
    wrong = ran(command, tmp_path, "plan", "--config", "demo.yaml", "plan.unit_secnds=3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "plan.unit_secnds: no such key" in wrong.stderr


def test_an_installed_config_leads_to_the_installed_archive(command: Path, tmp_path: Path) -> None:
    """In a folder that has nothing: neither configs/ nor pipeline/assets/sample."""
    done = ran(command, tmp_path, "plan", "--config", "demo.yaml", "plan.probe_recordings=0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[0:3:2] == ["plan", "45"]
    assert (tmp_path / "out/demo/_run/plan.parquet").is_file()
