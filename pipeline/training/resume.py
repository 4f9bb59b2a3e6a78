"""What a training leaves in its folder, and how the same command goes on from there after a kill.

settings.json   what the weights depend on: a run with other settings does not go on from this folder
checkpoint.pt   the state of the last saved step
log.jsonl       a line per `log_steps` and per evaluation
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.exhaustion import memory_exhausted
from pipeline.storage.base import OutputError

SETTINGS, CHECKPOINT, LOG = "settings.json", "checkpoint.pt", "log.jsonl"
RESCHEDULED = "rescheduled"  # in settings.json, only where the number of steps was changed

Changes = list[list[int]]  # [step at which the number of steps was changed, their number before]


def has_settings(folder: Path) -> bool:
    """Whether a training has begun in this folder."""
    return (folder / SETTINGS).exists()


def agree(
    folder: Path,
    settings: dict[str, Any],
    *,
    steps: str,
    earlier: int = 0,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the settings of a new run, or compare those of a run that goes on with what is written.

    Only the number of steps may differ, and only where it lies ahead of the checkpoint: the run then goes on at the
    rate of the new cosine.

    Args:
        folder: of the training.
        settings: everything that the weights depend on, by key.
        steps: the key of the number of steps.
        earlier: steps of the phases before, which `steps` does not count.
        defaults: what a setting had that the version of the run's beginning did not know.

    Raises:
        ConfigError: one line with every key that differs.
        OutputError: settings or checkpoint are damaged.
    """
    old: dict[str, Any] = {**defaults, **_settings(folder)} if has_settings(folder) else settings
    rescheduled = changes(folder)
    if old.get(steps, settings[steps]) != settings[steps] and settings[steps] + earlier > (done := _done(folder)):
        if done and done not in [step for step, _ in rescheduled]:  # else nothing was trained for the old number
            rescheduled = [*rescheduled, [done, old[steps] + earlier]]
        old = old | {steps: settings[steps]}
    if changed := [name for name, value in settings.items() if old.get(name) != value]:
        was = ", ".join(f"{name} was {old.get(name)}, now {settings[name]}" for name in changed)
        raise ConfigError(f"folder: {folder}: of a run with other settings ({was}); use a new folder")
    kept = settings | ({RESCHEDULED: rescheduled} if rescheduled else {})
    _write_text(folder / SETTINGS, json.dumps(kept, indent=1) + "\n")


def changes(folder: Path) -> Changes:
    """When the number of steps was changed so far."""
    made: Changes = _settings(folder).get(RESCHEDULED, []) if has_settings(folder) else []
    return made


def sentences(made: Changes) -> str:
    """The changes as sentences of a model card."""
    return "".join(
        f" At step {step} of {total} its number of steps was changed; from there on the rate follows the new cosine."
        for step, total in made
    )


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint; a kill leaves the one before."""
    path = folder / CHECKPOINT
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The state of the checkpoint, or None where there is none yet.

    Raises ConfigError for one of another version, OutputError for one that is damaged.
    """
    state = _state(folder, device)
    if state is not None and "best_weights" not in state:
        raise ConfigError(f"folder: {folder}: of an older version; use a new folder")
    return state


def same_shapes(folder: Path, there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> None:
    """Raises ConfigError, one line, where the weights of the checkpoint have other names or shapes."""
    shapes = [{name: list(weight.shape) for name, weight in weights.items()} for weights in (there, here)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        old, new = (side.get(name, "absent") for side in shapes)
        if old != new:
            raise ConfigError(
                f"folder: {folder / CHECKPOINT}: {name} is {old} there and {new} in this run; use a new folder"
            )


def cut_log(folder: Path, done: int) -> None:
    """Drop the lines of the log that come after step `done`, also one that a kill has cut."""
    path = folder / LOG
    if not path.exists():
        return
    lines = path.read_text().splitlines()
    kept = [line for line in lines if _step(line) <= done]
    if kept != lines:
        _write_text(path, "".join(f"{line}\n" for line in kept))


def _done(folder: Path) -> int:
    """Steps of the checkpoint."""
    state = _state(folder, torch.device("cpu"), mmap=True)
    return 0 if state is None else int(state["done"])


def _state(folder: Path, device: torch.device, *, mmap: bool = False) -> dict[str, Any] | None:
    """What the checkpoint holds, or None where there is none yet. Raises OutputError where it is damaged."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except Exception as err:  # of a damaged file: errors of zip, of torch and of its unpickler
        if isinstance(err, OSError) or memory_exhausted(err):  # of the disk or the machine: the file may be whole
            raise
        raise _damaged(path) from None
    return state


def _settings(folder: Path) -> dict[str, Any]:
    """What settings.json holds. Raises OutputError where it is damaged."""
    path = folder / SETTINGS
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise _damaged(path) from None


def _damaged(path: Path) -> OutputError:
    return OutputError(f"{path}: damaged, it cannot be read; use a new folder")


def _step(line: str) -> float:
    """The step of a line of the log; a line that a kill has cut belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf


def _write_text(path: Path, text: str) -> None:
    """Write the file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
