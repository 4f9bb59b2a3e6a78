"""Which adapter a training ends with: never one that forgets more than is allowed, else the lowest error rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import ConfigError, load
from pipeline.training import adapter, adapter_choice
from pipeline.training.adapter_config import AdapterConfig, AdapterOutput
from pipeline.training.adapter_loop import AdapterTrainer
from tests.support.adapter_case import config, overrides, settings, write_case


def line(step: int, rate: float, old: float, **more: Any) -> dict[str, Any]:
    """An evaluation: the rate over all sets, and that of `old`."""
    verdict = {"grounded": True, "best": step > 0} | more
    return {"evaluation": True, "step": step, "rate": rate, "shuffled": 1.0, "sets": {"old": {"rate": old}}} | verdict


BEFORE, STEP = line(0, 0.5, 0.10, best=True), line(6, 0.3, 0.15)
HALF, MOST = line(6, 0.4, 0.109, between=0.5), line(6, 0.35, 0.111, between=0.75)
GOOD, LATE = line(6, 0.2, 0.3, between=0.8), line(6, 0.3, 0.1, best=False)


@pytest.mark.parametrize(
    ("lines", "output", "chosen"),
    [
        ([BEFORE, STEP], {}, STEP),
        ([BEFORE, line(6, 0.6, 0.2, best=False)], {}, BEFORE),  # nothing is better than the start
        ([BEFORE, STEP, HALF, MOST], {"between": [0.5, 0.75]}, STEP),
        ([BEFORE, STEP, HALF, GOOD], {"between": [0.5, 0.8]}, GOOD),
        ([BEFORE, STEP, HALF, MOST], {"between": [0.5, 0.75], "max_rise": {"old": 0.01}}, HALF),
        ([BEFORE, STEP, HALF, MOST], {"between": [0.5, 0.75], "max_rise": {"old": 0.02}}, MOST),
        ([BEFORE, STEP, HALF, MOST], {"between": [0.75], "max_rise": {"old": 0.01}}, BEFORE),  # 0.5: of an earlier call
        ([BEFORE, STEP, HALF], {"between": [0.5], "max_rise": {"old": 0.009}}, HALF),  # 0.009 more is not over 0.009
        ([BEFORE, STEP, HALF], {"between": [0.5], "max_rise": {"old": 0.05}}, STEP),
        ([BEFORE, line(3, 0.2, 0.15), LATE], {"max_rise": {"old": 0.01}}, LATE),  # the last step obeys
        ([BEFORE, line(4, 0.2, 0.1), line(6, 0.25, 0.1, best=False)], {}, line(4, 0.2, 0.1)),
        ([line(0, 1.0, 0.9, grounded=False, best=True), STEP], {"max_rise": {"old": 0.0}}, STEP),
        ([line(0, 0.5, 0.1, best=True), line(6, 0.1, 0.1, grounded=False)], {}, line(0, 0.5, 0.1, best=True)),
    ],
)
def test_the_lowest_rate_of_what_keeps_the_rules_is_chosen(
    lines: list[dict[str, Any]], output: dict[str, Any], chosen: dict[str, Any]
) -> None:
    found = adapter_choice.choose(lines, AdapterOutput(uri="model", **output))
    assert found["best"] == chosen
    assert found["before"] == lines[0]
    assert found["last"] == [one for one in lines if "between" not in one][-1]


def test_the_model_is_between_start_and_last_step_where_the_last_step_forgets_too_much(tmp_path: Path) -> None:
    """Trained once; other places are only listened to, and those that are known not even that."""
    write_case(tmp_path)
    rates = iter([(0.5, 0.1), (0.4, 0.3), (0.3, 0.2), (0.45, 0.1), (0.35, 0.105)])  # steps 0, 4 and 6; 0.5; 0.25

    def figures(_self: object, _found: object) -> dict[str, Any]:
        rate, held = next(rates)
        return {"rate": rate, "shuffled": 1.0, "grounded": True, "sets": {"held": {"rate": held}}}

    def run(between: list[float]) -> dict[str, Any]:
        output = {"between": between, "max_rise": {"held": 0.01}}
        return adapter.train_adapter(config(tmp_path, output=output), "")

    work, written = tmp_path / "run/work", tmp_path / "run/model/adapter.safetensors"
    with mock.patch.object(AdapterTrainer, "_rates", figures), mock.patch.object(adapter, "card", return_value=""):
        first = run([0.5, 0.5])
        with mock.patch.object(AdapterTrainer, "step", side_effect=AssertionError("it is trained")):
            second = run([0.5, 0.25])
            assert run([0.25]) == second
    assert (first["best"]["between"], first["best"]["rate"]) == (0.5, 0.45)
    assert (second["best"]["between"], second["best"]["rate"]) == (0.25, 0.35)
    last = torch.load(work / "checkpoint.pt")["adapter"]
    start = load_file(work / "start/adapter.safetensors")
    moved = 0
    for name, weight in load_file(written).items():
        torch.testing.assert_close(weight, 0.75 * start[name] + 0.25 * last[name])
        moved += not torch.equal(weight, start[name])
    assert moved


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("output.max_rise={olf: 0.01}", r"output.max_rise: olf: no such evaluation \(held\)"),
        ("output.max_rise={held: -0.01}", "output.max_rise.held"),
        ("output.max_rise={held: 1}", "output.max_rise.held"),  # a point is 0.01
        ("output.between=[1.0]", "output.between"),
        ("output.between=[0.0]", "output.between"),
    ],
)
def test_places_and_rises_that_cannot_be_are_refused(tmp_path: Path, given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(AdapterConfig, None, [*overrides(settings(tmp_path)), given])
