"""`model.head` names the code of the vocabulary head; a kernel that cannot run here is one line, before any work."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.config import ConfigError, DenoiseConfig
from pipeline.model.denoise import head
from pipeline.model.denoise.engine import Engine
from pipeline.model.denoise.vocabulary_head import State, run_head, tile_step
from tests.model.test_vocabulary_head_triton import inputs
from tests.support.small_model import noise_segment, random_model
from tests.support.triton_process import TIMEOUT

pytestmark = TIMEOUT


def test_torch_is_the_tile_step_that_is_given() -> None:
    def compiled(*arguments: Any) -> State:
        return tile_step(*arguments)

    assert head.tile_step_for("torch", compiled, torch.zeros(8, 4)) is compiled


def test_the_engine_takes_torch_by_default() -> None:
    engine = Engine(random_model(0, canvas_length=16), DenoiseConfig(max_steps=2), slots=2)
    engine.transcribe([noise_segment(0)])
    engine.close()
    assert engine.scheduler.head == "torch"
    assert engine.scheduler.calls.tile_step is tile_step


def test_triton_on_a_cpu_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        Engine(random_model(0), DenoiseConfig(), slots=1, head="triton")
    assert str(caught.value) == "model.head: triton: it needs a CUDA device, the model is on cpu"


def test_a_cuda_device_without_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # as Python marks what cannot be imported
    reason = head.obstacle(torch.device("cuda"))
    assert reason
    assert reason.startswith("triton, which the CUDA builds of torch bring, cannot be imported: ")


def chosen_there() -> tuple[bool, bool]:
    """Whether the kernel is taken, and draws the same tokens as torch. In the interpreter it runs on a CPU."""
    from pipeline.model.denoise import vocabulary_head_triton as fused

    arguments = inputs(0, 30, 150, 8)
    with mock.patch.object(head, "obstacle", return_value=None):
        step = head.tile_step_for("triton", tile_step, arguments["weight_VH"])
    same = torch.equal(run_head(**arguments, step=step).sample, run_head(**arguments).sample)
    return step is fused.tile_step, same


def test_triton_is_the_kernel(interpreter: ProcessPoolExecutor) -> None:
    assert interpreter.submit(chosen_there).result() == (True, True)


def refused_there(error: Exception) -> tuple[str, str]:
    """The type and the text of the error, where compiling the kernel raises `error`."""
    from pipeline.model.denoise import vocabulary_head_triton as fused

    blocked = mock.patch.object(head, "obstacle", return_value=None)
    with blocked, mock.patch.object(fused, "tile_step", side_effect=error):
        try:
            head.tile_step_for("triton", tile_step, torch.zeros(8, 4))
        except Exception as err:  # noqa: BLE001 - of any kind: the test compares it
            return type(err).__name__, str(err)
    return "", ""


@pytest.mark.parametrize("error", [OSError("no cc"), RuntimeError("Failed to find C compiler.\nGive CC")])
def test_a_kernel_that_cannot_be_compiled_is_one_line(interpreter: ProcessPoolExecutor, error: Exception) -> None:
    kind, text = interpreter.submit(refused_there, error).result()
    assert kind == "ConfigError"
    assert text == (
        f"model.head: triton: the kernel cannot be compiled: {type(error).__name__}: {' '.join(str(error).split())}"
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("injected"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        KeyError("a mistake of ours"),
    ],
    ids=["memory", "triton's memory", "fault", "mistake"],
)
def test_exhausted_memory_faults_and_mistakes_go_through(interpreter: ProcessPoolExecutor, error: Exception) -> None:
    assert interpreter.submit(refused_there, error).result() == (type(error).__name__, str(error))
