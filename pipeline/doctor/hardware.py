"""The machine: its GPUs and whether torch can use them, memory, limits, installed packages and decoders."""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import psutil
from packaging.requirements import Requirement

from pipeline.audio.track import CODECS
from pipeline.config import RunConfig
from pipeline.doctor.rows import Result, State, size

ROOT = Path(__file__).parents[2]
PYTHONS = (3, 11), (3, 13)  # the first and the last that pyproject.toml allows
PROBE_SECONDS = 100  # to import torch from a slow disk and to start CUDA on every device
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
MEMORY = 4e9  # bytes: more than the driver, one decoder and one small replica take together
SHARED = 2e9  # bytes of /dev/shm; a container has 64 MB by default
FILES = 8192  # Ray's own recommendation is 65,536 for a large cluster


def gpus_wanted(config: RunConfig) -> int:
    """How many GPUs a run on one machine needs for its first replicas."""
    if config.compute.gpus_per_replica:
        return math.ceil(config.compute.replicas_min * config.compute.gpus_per_replica)
    return int(config.model.device == "cuda")


@functools.cache
def gpu_facts() -> dict[str, Any]:
    """Run gpu_probe.py once per process, return its output. Raises TimeoutError, or RuntimeError with its last line."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if environment.get("CUDA_VISIBLE_DEVICES") == "":  # Ray sets it so for tasks without a GPU
        del environment["CUDA_VISIBLE_DEVICES"]
    command = [sys.executable, "-m", "pipeline.doctor.gpu_probe"]
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"torch needs more than {PROBE_SECONDS} s to look at the GPUs") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise RuntimeError(f"torch ended with status {done.returncode}: {last}")
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def gpu_rows(facts: dict[str, Any], *, wanted: int) -> Iterator[Result]:
    """A row about torch and the driver, then one for each GPU.

    facts: from gpu_probe.py. wanted: GPUs that must be there.
    """
    bad: State = "FAIL" if wanted else "warn"
    triton = f"Triton {facts['triton']}" if facts["triton"] else "no Triton"
    built = f"CUDA {facts['cuda']}, {triton}" if facts["cuda"] else "built without CUDA"
    versions = f"torch {facts['torch']}, {built}"
    driver = f"NVIDIA driver {facts['driver']}" if facts["driver"] else "no NVIDIA driver"
    finding = f"{versions}; {driver}; Linux {facts['kernel']}"
    devices = facts["devices"]
    if facts["cuda"] is None and (facts["driver"] or wanted):
        yield Result("torch", bad, finding, f"install torch for CUDA: make setup TORCH_INDEX={CUDA_INDEX}")
    elif facts["cuda"] and not facts["driver"]:
        yield Result("torch", bad, finding, "install the driver; in a container: run it with --gpus all")
    elif facts["cuda"] and not devices:
        advice = "a driver for this CUDA, or torch for the driver's CUDA; see nvidia-smi"
        yield Result("torch", bad, f"{finding}; no device: {facts['why'] or 'torch does not say why'}", advice)
    else:
        yield Result("torch", "ok", finding)
    for index, device in enumerate(devices):
        about = (
            f"{index}: {device['name']}, capability {device['capability']}, "
            f"{size(device['free'])} of {size(device['total'])} free"
        )
        if device["error"]:
            built = " ".join(facts["architectures"])
            advice = f"this torch is built for {built}" if "kernel image" in device["error"] else "see nvidia-smi"
            yield Result("gpu", bad, f"{about}; {device['error']}", advice)
        elif device["free"] < 0.9 * device["total"]:
            yield Result("gpu", "warn", about, "another process uses the rest: nvidia-smi names it")
        else:
            yield Result("gpu", "ok", f"{about}; float32 and bfloat16 products right")
    if len(devices) < wanted:
        keys = "compute.gpus_per_replica, compute.replicas_min, model.device"
        yield Result("gpu", "FAIL", f"{len(devices)} of {wanted} GPUs that must be here", f"another machine, or {keys}")
    elif not devices:
        yield Result("gpu", "ok", "none, and none is needed")


def memory() -> Iterator[Result]:
    """Rows about main memory (with the limit of a container) and /dev/shm, where Ray keeps its objects."""
    machine = psutil.virtual_memory()
    limit = container_limit()
    total, free = machine.total, machine.available
    if limit and limit < total:
        total, free = limit, min(free, limit)
    finding = f"{size(free)} of {size(total)} free, {os.cpu_count()} CPUs"
    short = f"{size(MEMORY)} for a driver, a decoder and a small replica"
    yield Result("memory", "ok" if free >= MEMORY else "warn", finding, "" if free >= MEMORY else short)
    try:
        shared = shutil.disk_usage("/dev/shm")
    except OSError:
        return
    finding = f"/dev/shm: {size(shared.free)} of {size(shared.total)} free for Ray's objects"
    if shared.free >= SHARED:
        yield Result("object store", "ok", finding)
    else:
        yield Result("object store", "warn", finding, "Ray would use the disk; docker run --shm-size=8g, or remount it")


def container_limit() -> int | None:
    """Bytes of memory that the control group allows; None if it sets no limit."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() and int(text) < 1 << 60 else None
    return None


def limits() -> Iterator[Result]:
    """A row about how many files a process may open. Ray raises the soft limit to the hard one by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = math.inf if hard == resource.RLIM_INFINITY else hard
    finding = f"{soft} open files, at most {most:g}"
    good = most >= FILES
    yield Result("open files", "ok" if good else "warn", finding, "" if good else "ulimit -n 65536 before Ray starts")


def packages(project: Path = ROOT / "pyproject.toml") -> Iterator[Result]:
    """Rows that compare Python and the installed packages with the requirements of fullcanvas.

    project: its pyproject.toml; if it does not exist, the requirements of the installed package count.
    """
    python = f"Python {platform.python_version()}, ray {_version('ray')}"
    setup = "make setup, the same on every node"
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        yield Result("packages", "FAIL", python, "Python 3.11, 3.12 or 3.13")
    wanted = _requirements(project)
    have = {requirement: _version(requirement.name) for requirement in wanted}
    missing = [requirement.name for requirement, version in have.items() if version is None]
    if missing:
        yield Result("packages", "FAIL", f"{python}; missing: {', '.join(missing)}", setup)
    others = [
        f"{requirement.name} {version} (tested: {requirement.specifier})"
        for requirement, version in have.items()
        if version is not None and not requirement.specifier.contains(version, prereleases=True)
    ]
    if others:
        yield Result("packages", "warn", f"{python}; {', '.join(others)}", setup)
    if not missing and not others:
        yield Result("packages", "ok", f"{python}; {len(wanted)} packages in their tested ranges")


def decoders() -> Iterator[Result]:
    """A row about the decoders of FFmpeg that the pipeline uses: how many are there, and the names of the others."""
    wanted = CODECS.split(",")
    missing = [name for name in wanted if not _decodes(name)]
    finding = f"{len(wanted) - len(missing)} of {len(wanted)} decoders of FFmpeg"
    if missing:
        yield Result("decoders", "warn", f"{finding}; without {', '.join(missing)}", "make setup: its av has them")
    else:
        yield Result("decoders", "ok", finding)


def _decodes(codec: str) -> bool:
    try:
        av.codec.Codec(codec, "r")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _requirements(project: Path) -> list[Requirement]:
    """The requirements of fullcanvas without its extras. An installed package has no pyproject.toml beside it."""
    if project.exists():
        texts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        texts = metadata.requires("fullcanvas") or []
    return [requirement for requirement in map(Requirement, texts) if requirement.marker is None]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
