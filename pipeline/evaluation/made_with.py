"""What an evaluation was made with: settings, code, machine; and how that differs from another evaluation."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config_file import PACKAGE, as_text, flat
from pipeline.evaluation.result import Differing, Evaluation
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.model.files import layout

# The sections of the config that change the figures.
DECIDING = ("sets", "model", "denoise", "decode", "segment", "corrupt")
_ELSEWHERE = (
    "run",
    "output",
    "storage",
    "baseline",
    "keep_as",
    "models",
    "mlflow",
)  # where things are, not how they were made
_COMPARED = ("model", "revision", "normaliser", "code_version", "git_commit", "hardware")  # of `about`


def about_of(config: EvaluateConfig) -> dict[str, str]:
    """Revision of the model, hash of the settings that change the figures, code and hardware, by name.

    git_commit is there where the code lies in a git repository.
    """
    settings = config.model_dump(mode="json")
    deciding: dict[str, Any] = {key: settings[key] for key in DECIDING}
    revision = "as the output says"
    if any(one.source for one in config.sets.values()):
        info = layout.describe(config.model.name, config.model.revision)
        deciding["weights"], revision = info.weights_hash, info.revision
    damage, commit = config.corrupt.description(), git_commit()
    return ({"corrupt": damage} if damage else {}) | {
        "revision": revision,
        "config_hash": hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16],
        "code_version": __version__,
        **({"git_commit": commit} if commit else {}),
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs, {config.compute.gpus_per_replica:g} GPUs a replica",
    }


def git_commit(folder: Path = PACKAGE) -> str | None:
    """The commit of the repository that a folder lies in, 40 digits, with "-dirty" where files have changed.

    folder: by default that of this code. None where there is no git, no repository or no commit.
    """
    words = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def recorded(config: EvaluateConfig) -> dict[str, Any]:
    """The settings that the result keeps, by full key: all but those that only say where something is. No secrets."""
    return flat(config.model_dump(mode="json", exclude=set(_ELSEWHERE)))


def differing(new: Evaluation, old: Mapping[str, Any]) -> list[Differing]:
    """What was different when `old` was made, the model and the code first, then the settings by name.

    old: a result of history.py; one of an earlier version without settings has nothing that could differ.
    """
    if not old.get("settings"):
        return []
    here = {name: new.about.get(name) for name in _COMPARED} | dict(new.settings)
    there = {name: old["about"].get(name) for name in _COMPARED} | old["settings"]
    names = dict.fromkeys((*here, *there))
    changed = [(name, here.get(name), there.get(name)) for name in names]
    return [Differing(name, as_text(mine), as_text(theirs)) for name, mine, theirs in changed if mine != theirs]
