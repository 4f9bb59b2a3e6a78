"""What tests of adapter training start from: a small model in a folder, and a few recordings of noise with texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from pipeline.model.files import checkpoint
from pipeline.model.files.layout import LoraSpec
from pipeline.training.adapter_config import AdapterConfig
from tests.support.small_model import WORDS, random_model

SECONDS = 0.8  # of the window of 1 s
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}


def write_case(root: Path, *, lora: LoraSpec | None = None) -> None:
    """Write root/model, root/train (8 recordings of one to three words) and root/heldout (4)."""
    model = random_model(1, spread=1.0, canvas_length=8, experts=2, layers=2, lora=lora)
    checkpoint.save(model, root / "model", dtype=torch.float32)
    rng = np.random.default_rng(0)
    for name, count in (("train", 8), ("heldout", 4)):
        (root / name).mkdir()
        for i in range(count):
            soundfile.write(root / name / f"{i}.wav", rng.normal(size=round(SECONDS * 16_000)) * 0.1, 16_000)
            text = " ".join(WORDS[(7 * i + k) % len(WORDS)] for k in range(1 + i % 3))
            (root / name / f"{i}.txt").write_text(text)


def settings(root: Path, name: str = "run", **sections: Any) -> dict[str, Any]:
    """A config as a tree: six steps of four recordings in this process, changed by `sections`."""
    tree: dict[str, Any] = {
        "source": {"uri": str(root / "train"), "format": "files", "language": "en"},
        "evaluation": {"heldout": {"uri": str(root / "heldout"), "format": "files", "language": "en"}},
        "output": {"uri": str(root / name / "model")},
        "folder": str(root / name / "work"),
        "model": {"name": str(root / "model")},
        "lora": LORA,
        "segment": {"vad": False},
        "denoise": {"max_steps": 2},
        "train": {
            "steps": 6,
            "batch": 4,
            "lr": 3e-3,
            "warmup_steps": 2,
            "log_steps": 2,
            "checkpoint_steps": 2,
            "evaluate_steps": 4,
        },
        "compute": {"workers": 0},
    }
    for section, values in sections.items():
        tree[section] = tree[section] | values if isinstance(tree.get(section), dict) else values
    return tree


def config(root: Path, name: str = "run", **sections: Any) -> AdapterConfig:
    """`settings`, validated."""
    return AdapterConfig.model_validate(settings(root, name, **sections))


def overrides(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """A config tree as arguments of the command line."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += overrides(value, f"{prefix}{key}.")
        else:
            text = "[" + ", ".join(value) + "]" if isinstance(value, list) else str(value)
            lines.append(f"{prefix}{key}={text}")
    return lines
