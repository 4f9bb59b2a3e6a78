"""What the weights of a training depend on, kept beside its checkpoint: other settings do not go on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.config import ConfigError
from pipeline.training.adapter_config import AdapterConfig
from pipeline.training.schedule import Changes

SETTINGS = "settings.json"
CHECKPOINT = "checkpoint.pt"
STEPS = "train.steps"


def exist(folder: Path) -> bool:
    return (folder / SETTINGS).exists()


def agree(config: AdapterConfig, weights: str) -> Changes:
    """Keep the settings of a new run; those of one that goes on must be the same but for a number of steps ahead.

    weights: the hash of those it starts from. Returns the changes of the number of steps so far. Raises ConfigError.
    """
    folder = Path(config.folder)
    path = folder / SETTINGS
    settings = {"model.weights": weights} | config.deciding()
    old: dict[str, Any] = json.loads(path.read_text()) if path.exists() else settings
    rescheduled: Changes = old.get("rescheduled", [])
    if old[STEPS] != config.train.steps > (done := _done(folder)):
        if done and done not in [step for step, _ in rescheduled]:  # else nothing was trained for the old number
            rescheduled = [*rescheduled, [done, old[STEPS]]]
        old = old | {STEPS: config.train.steps}
    if changed := [name for name, value in settings.items() if old.get(name) != value]:
        was = ", ".join(f"{name} was {old.get(name)}, now {settings[name]}" for name in changed)
        raise ConfigError(f"folder: {config.folder}: of a run with other settings ({was}); use a new folder")
    kept = settings | ({"rescheduled": rescheduled} if rescheduled else {})
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(kept, indent=1) + "\n")
    temporary.replace(path)
    return rescheduled


def _done(folder: Path) -> int:
    """Steps of the checkpoint."""
    path = folder / CHECKPOINT
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["done"]) if path.exists() else 0
