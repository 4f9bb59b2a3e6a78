"""Triton in a process of its own, where nothing else sees it: interpreter or compiler. Installed if missing."""

from __future__ import annotations

import fcntl
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.support.debian import skip_unless_allowed

VERSION = "3.7.1"  # what the CUDA builds of torch 2.13.0 require
FOLDER = Path(sys.prefix, "triton")
TIMEOUT = pytest.mark.timeout(900)  # the first test installs it: a wheel of 198 MB, 691 MB unpacked


@pytest.fixture(scope="session")
def triton_path() -> str | None:
    """Where triton lies, put there once for all processes and runs; None where torch has brought it."""
    if importlib.util.find_spec("triton"):
        return None
    done = FOLDER / f".installed-{VERSION}"
    with Path(sys.prefix, "triton.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            skip_unless_allowed(f"triton=={VERSION} (0.7 GB)")
            pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--upgrade", "--target", str(FOLDER)]
            ran = subprocess.run([*pip, f"triton=={VERSION}"], capture_output=True, text=True, check=False)
            if ran.returncode:
                pytest.fail(f"triton=={VERSION} could not be installed: {ran.stderr[-500:]}")
            done.touch()
    return str(FOLDER)


@pytest.fixture(scope="module")
def interpreter(triton_path: str | None) -> Iterator[ProcessPoolExecutor]:
    """Runs functions of a module in a process where Triton's kernels are interpreted on CPU tensors."""
    with _process(_start_interpreter, triton_path) as pool:
        yield pool


@pytest.fixture(scope="module")
def compiler(triton_path: str | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    """The same where they can be compiled, for any GPU; there need not be one."""
    with _process(_start_compiler, triton_path, str(tmp_path_factory.mktemp("triton"))) as pool:
        yield pool


def _process(*start: object) -> ProcessPoolExecutor:
    call, *arguments = start
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=call, initargs=tuple(arguments))  # type: ignore[arg-type]


def _start_interpreter(path: str | None) -> None:
    """The interpreter has none of CUDA's libdevice; here the one function that is called is torch's own tanh."""
    _see(path)
    os.environ["TRITON_INTERPRET"] = "1"
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton")  # log(0) and NaN are meant
    import torch
    import triton.language as tl
    from triton.language.extra import libdevice
    from triton.runtime.interpreter import TensorHandle

    def tanh(x: tl.tensor) -> tl.tensor:
        return tl.tensor(TensorHandle(torch.from_numpy(x.handle.data).tanh().numpy(), x.handle.dtype), x.type)

    libdevice.tanh = tanh
    torch.set_num_threads(1)


def _start_compiler(path: str | None, cache: str) -> None:
    _see(path)
    os.environ["TRITON_CACHE_DIR"] = cache


def _see(path: str | None) -> None:
    if path:
        sys.path.insert(0, path)
