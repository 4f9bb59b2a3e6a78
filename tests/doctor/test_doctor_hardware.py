"""What the doctor says of a machine: torch against the driver, devices, memory, limits, packages."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import ComputeConfig, ModelConfig
from pipeline.doctor import hardware
from pipeline.doctor.settings import DoctorConfig

CPU = {
    "torch": "2.13.0+cpu",
    "cuda": None,
    "triton": "",
    "architectures": [],
    "driver": "",
    "kernel": "6.1",
    "why": "",
    "devices": [],
}
CUDA = CPU | {"torch": "2.13.0+cu130", "cuda": "13.0", "triton": "3.7.1", "architectures": ["sm_90"]}
H100 = {"name": "NVIDIA H100", "capability": "9.0", "free": 84e9, "total": 85e9, "error": ""}
OLD = H100 | {"name": "Tesla K80", "capability": "3.7", "error": "CUDA error: no kernel image is available"}
BUSY = H100 | {"free": 20e9}


@pytest.mark.parametrize(
    ("facts", "wanted", "states", "says"),
    [
        (CPU, 0, {"torch": "ok", "gpu": "ok"}, "none, and none is needed"),
        (CPU, 1, {"torch": "FAIL", "gpu": "FAIL"}, "TORCH_INDEX"),
        (CPU | {"driver": "580.1"}, 0, {"torch": "warn", "gpu": "ok"}, "built without CUDA; NVIDIA driver 580.1"),
        (CUDA, 0, {"torch": "warn", "gpu": "ok"}, "--gpus all"),
        (CUDA, 1, {"torch": "FAIL", "gpu": "FAIL"}, "no NVIDIA driver"),
        (CUDA | {"driver": "470.1", "why": "driver too old"}, 1, {"torch": "FAIL", "gpu": "FAIL"}, "driver too old"),
        (CUDA | {"driver": "580.1", "devices": [H100]}, 1, {"torch": "ok", "gpu": "ok"}, "84.0 GB of 85.0 GB free"),
        (
            CUDA | {"driver": "580.1", "devices": [H100]},
            1,
            {"torch": "ok", "gpu": "ok"},
            "CUDA 13.0, Triton 3.7.1; NVI",
        ),
        (CUDA | {"triton": ""}, 0, {"torch": "warn", "gpu": "ok"}, "CUDA 13.0, no Triton"),
        (CUDA | {"driver": "580.1", "devices": [H100]}, 4, {"torch": "ok", "gpu": "FAIL"}, "1 of 4 GPUs"),
        (CUDA | {"driver": "580.1", "devices": [OLD]}, 1, {"torch": "ok", "gpu": "FAIL"}, "built for sm_90"),
        (CUDA | {"driver": "580.1", "devices": [BUSY]}, 1, {"torch": "ok", "gpu": "warn"}, "nvidia-smi names it"),
    ],
)
def test_torch_driver_and_devices_are_judged_together(
    facts: dict[str, Any], wanted: int, states: dict[str, str], says: str
) -> None:
    rows = list(hardware.gpu_rows(facts, wanted=wanted))
    worst = {row.check: row.state for row in sorted(rows, key=lambda row: ["ok", "warn", "FAIL"].index(row.state))}
    assert worst == states
    assert says in " ".join(f"{row.finding} {row.advice}" for row in rows)


@pytest.mark.parametrize(
    ("device", "gpus", "replicas", "wanted"),
    [("auto", 0, 1, 0), ("cuda", 0, 1, 1), ("cuda", 1, 3, 3), ("auto", 0.5, 3, 2), ("cuda", 2, 2, 4)],
)
def test_gpus_are_counted_for_the_first_replicas(device: Any, gpus: float, replicas: int, wanted: int) -> None:
    compute = ComputeConfig(gpus_per_replica=gpus, replicas_min=replicas, replicas_max=replicas)
    assert hardware.gpus_wanted(DoctorConfig(model=ModelConfig(device=device), compute=compute)) == wanted


def test_the_probe_finds_in_its_own_process_what_torch_finds_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    facts = hardware.gpu_facts()
    assert facts["torch"] == torch.__version__
    assert facts["cuda"] == torch.version.cuda
    if not torch.cuda.is_available():
        assert facts["devices"] == []
    assert all(device["total"] > 0 and not device["error"] for device in facts["devices"])


def test_memory_limits_packages_and_decoders_of_this_machine_are_named() -> None:
    checks = (*hardware.memory(), *hardware.limits(), *hardware.packages(), *hardware.decoders())
    rows = {row.check: row for row in checks}
    assert set(rows) >= {"memory", "open files", "packages", "decoders"}
    assert rows["decoders"].state == "ok"
    assert rows["packages"].state == "ok"
    assert f"ray {version('ray')}" in rows["packages"].finding


def test_other_versions_are_a_warning_and_missing_packages_a_failure(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["ray[data]>=1,<2", "nosuchpackage>=1.0", "torch>=2.13.0,<3"]\n')
    missing, other = hardware.packages(project)
    assert (missing.state, other.state) == ("FAIL", "warn")
    assert "missing: nosuchpackage" in missing.finding
    assert "(tested: <2,>=1)" in other.finding
    assert "torch" not in other.finding


def test_decoders_that_ffmpeg_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "CODECS", "flac,nosuchcodec,opus")
    (row,) = hardware.decoders()
    assert (row.state, row.finding) == ("warn", "2 of 3 decoders of FFmpeg; without nosuchcodec")
