"""Which adapter a training ends with: that of the start, of its best step, or one between the start and the last step.

What is learned anew costs some of what was known. On the line between the weights before and after, most of the new
is kept where most of the old still is (Wortsman et al. 2022, Robust fine-tuning of zero-shot models, WiSE-FT).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.files import hub
from pipeline.training.adapter_config import AdapterOutput
from pipeline.training.adapter_settings import CHECKPOINT

Line = dict[str, Any]  # an evaluation in log.jsonl; "between" is its place on that line, where it is of no step
ROUNDING = 1e-9


def start_weights(folder: Path) -> dict[str, Tensor]:
    """The adapter before the first step, float32, of the training in `folder`."""
    return load_file(folder / "start" / hub.PARTS["adapter"])


def between(start: dict[str, Tensor], last: dict[str, Tensor], place: float) -> dict[str, Tensor]:
    """The weights at `place` from the start (0) to the last step (1), on the devices of `last`."""
    return {name: torch.lerp(start[name].to(weight.device), weight, place) for name, weight in last.items()}


def choose(lines: list[Line], output: AdapterOutput) -> dict[str, Line]:
    """Of all evaluations of a finished run: {"before", "best", "last"}.

    best: the lowest rate among those that are grounded and raise no set of `output.max_rise` by more than that over
    the start, which always takes part. Grounded goes before that, and that before the rate. Of the other steps, the
    last and the one that the training kept can be it. Raises ConfigError where step 0 is not among the evaluations.
    """
    steps = [line for line in lines if "between" not in line]
    if not steps or steps[0]["step"]:
        raise ConfigError("folder: its log.jsonl has no evaluation of step 0; use a new folder")
    before, last = steps[0], steps[-1]
    kept = [line for line in steps if line["best"]][-1]
    tried = [line for line in lines if line.get("between") in output.between and line["step"] == last["step"]]

    def rank(line: Line) -> tuple[bool, bool, float]:
        return line["grounded"], keeps(line, before, output.max_rise), -line["rate"]

    return {"before": before, "best": max([before, kept, last, *tried], key=rank), "last": last}


def keeps(line: Line, before: Line, max_rise: dict[str, float]) -> bool:
    """Whether no set of `max_rise` has lost more than that."""
    return all(
        line["sets"][name]["rate"] <= before["sets"][name]["rate"] + rise + ROUNDING for name, rise in max_rise.items()
    )


def weights(folder: Path, line: Line) -> dict[str, Tensor]:
    """The adapter that an evaluation chosen by `choose` was of, on the CPU."""
    if line["step"] == 0:
        return start_weights(folder)
    state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    last: dict[str, Tensor] = state["adapter"]
    if "between" in line:
        return between(start_weights(folder), last, line["between"])
    return last if line["step"] == state["done"] else state["best_adapter"]
