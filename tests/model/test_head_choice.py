"""The engine takes the faster vocabulary head where both agree, and torch's where anything is wrong with the other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import ConfigError, DenoiseConfig
from pipeline.model.denoise import head_choice
from pipeline.model.denoise.engine import Engine
from pipeline.model.denoise.head_choice import Choice, choose, example, faster, obstacle
from pipeline.model.denoise.vocabulary_head import HeadOutput, State, tile_step
from tests.support.small_model import noise_segment, random_model
from tests.support.triton_process import TIMEOUT

pytestmark = TIMEOUT
CPU = torch.device("cpu")
ROWS = 2000


@pytest.fixture(scope="module")
def run() -> head_choice.Run:
    return example(torch.randn(150, 8, generator=torch.Generator().manual_seed(0)), softcap=30.0, rows=ROWS)


def kernel(*arguments: Any) -> State:
    """Another function that gives the same."""
    return tile_step(*arguments)


def taking(**seconds: float) -> head_choice.Seconds:
    """A clock for `faster`, which measures the kernel before torch's."""
    times = [seconds["triton"], seconds["torch"]]
    return lambda work: (work(), times.pop(0))[1]


def no_clock(work: Callable[[], object]) -> float:
    raise AssertionError("nothing is to be measured")


@pytest.mark.parametrize(("ours", "theirs", "chosen"), [(0.05, 0.04, "triton"), (0.04, 0.05, "torch")])
def test_the_faster_one_is_taken_and_both_times_are_logged_once(
    run: head_choice.Run, ours: float, theirs: float, chosen: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = faster(tile_step, kernel, run, seconds=taking(torch=ours, triton=theirs))
    assert made == Choice(chosen, {"torch": tile_step, "triton": kernel}[chosen], {"torch": ours, "triton": theirs})
    expected = f"vocabulary head: torch {1e3 * ours:.2f} ms, triton {1e3 * theirs:.2f} ms: {chosen}"
    assert [record.getMessage() for record in caplog.records] == [expected]


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[HeadOutput], HeadOutput]:
    return lambda output: output._replace(**{name: change(getattr(output, name))})


def at_rows(count: int, change: float) -> Callable[[Tensor], Tensor]:
    def of(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[:count] += change
        return tensor

    return of


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("argmax", at_rows(3, 1)),
        ("sample", at_rows(3, 1)),
        ("entropy", at_rows(1, 0.01)),
        ("entropy", at_rows(1, torch.nan)),
        ("entropy_raw", at_rows(1, 0.01)),
        ("probability", at_rows(1, 0.01)),
        ("soft", at_rows(1, 0.1)),
    ],
)
def test_a_kernel_that_gives_something_else_is_not_used(
    run: head_choice.Run, name: str, change: Callable[[Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    broken = changed(name, change)
    made = faster(
        tile_step,
        kernel,
        lambda step, raw: broken(run(step, raw)) if step is kernel else run(step, raw),
        seconds=no_clock,
    )
    assert made == Choice("torch", tile_step)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        f"vocabulary head: the Triton kernel is not used: {name} differs from torch's"
    )


@pytest.mark.parametrize(("name", "change"), [("sample", at_rows(2, 1)), ("entropy", at_rows(5, 2e-4))])
def test_what_rounding_may_change_is_no_difference(
    run: head_choice.Run, name: str, change: Callable[[Tensor], Tensor]
) -> None:
    """Two of 2,000 positions may draw another token."""
    broken = changed(name, change)
    made = faster(
        tile_step,
        kernel,
        lambda step, raw: broken(run(step, raw)) if step is kernel else run(step, raw),
        seconds=taking(torch=2, triton=1),
    )
    assert made.name == "triton"


def failing(error: Exception) -> Callable[..., State]:
    def step(*_: Any) -> State:
        raise error

    return step


@pytest.mark.parametrize("error", [OSError("no cc"), RuntimeError("Failed to find C compiler.\nGive CC")])
def test_a_kernel_that_cannot_be_compiled_is_not_used(
    run: head_choice.Run, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    made = faster(tile_step, failing(error), run, seconds=no_clock, errors=(OSError, RuntimeError))
    assert made == Choice("torch", tile_step)
    (record,) = caplog.records
    assert record.getMessage().endswith(f"{type(error).__name__}: {' '.join(str(error).split())}")


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
def test_exhausted_memory_faults_and_mistakes_go_through(run: head_choice.Run, error: Exception) -> None:
    with pytest.raises(type(error)):
        faster(tile_step, failing(error), run, seconds=no_clock, errors=(OSError, RuntimeError))


@pytest.mark.parametrize("setting", ["auto", "torch"])
def test_a_cpu_always_takes_torch(setting: str) -> None:
    assert obstacle(CPU)
    made = choose(setting, kernel, torch.zeros(8, 4), softcap=30.0, rows=4)
    assert made == Choice("torch", kernel)


def test_triton_on_a_cpu_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        Engine(random_model(0), DenoiseConfig(), slots=1, head="triton")
    assert str(caught.value) == "model.head: triton: it needs a CUDA device, the model is on cpu"


def test_a_cuda_device_without_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # as Python marks what cannot be imported
    reason = obstacle(torch.device("cuda"))
    assert reason
    assert reason.startswith("triton, which the CUDA builds of torch bring, cannot be imported: ")


def test_the_engine_runs_the_head_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen once for the shapes of a full step, with compiled code or without."""
    asked: list[tuple[Any, ...]] = []
    used = 0

    def step(*arguments: Any) -> State:
        nonlocal used
        used += 1
        return tile_step(*arguments)

    def chosen(setting: str, torch_step: object, weight: Tensor, *, softcap: float, rows: int) -> Choice:
        asked.append((setting, torch_step, tuple(weight.shape), softcap, rows))
        return Choice("triton", step)

    model = random_model(0, canvas_length=16)
    monkeypatch.setattr(head_choice, "choose", chosen)
    engine = Engine(model, DenoiseConfig(max_steps=2), slots=3, head="auto")
    engine.transcribe([noise_segment(0)])
    engine.close()
    text = model.config.backbone["text_config"]
    assert asked == [("auto", tile_step, (text["vocab_size"], 64), model.backbone.final_logit_softcapping, 48)]
    assert engine.scheduler.head.name == "triton"
    assert used > 0


def choice_there() -> tuple[str, dict[str, float]]:
    from pipeline.model.denoise import vocabulary_head_triton as fused

    run = example(torch.randn(150, 8).bfloat16(), softcap=30.0, rows=30)
    made = faster(tile_step, fused.tile_step, run, seconds=taking(torch=2, triton=1), errors=fused.ERRORS)
    return made.name, made.seconds


def test_the_kernel_agrees_in_the_interpreter(interpreter: ProcessPoolExecutor) -> None:
    assert interpreter.submit(choice_there).result() == ("triton", {"torch": 2, "triton": 1})
