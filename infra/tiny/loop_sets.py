"""The training sets of infra.tiny.loop, as NeMo manifests: selected labels, all of them, and a random part of all.

All students have the same dev set, that of the selection, and none is trained on its recordings.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SELECTED, ALL, RANDOM = "selected", "all", "random"
STUDENTS = (SELECTED, ALL, RANDOM)
DEV = "dev"

Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    """The lines of a manifest."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def seconds(lines: Iterable[Line]) -> float:
    """How long they are together."""
    return sum(float(line["duration"]) for line in lines)


def training_sets(selected: list[Line], dev: list[Line], everything: list[Line], *, seed: int) -> dict[str, list[Line]]:
    """The lines of each of STUDENTS, and of DEV. everything: the lines of all transcripts."""
    kept_back = {line["recording_id"] for line in dev}
    rest = [line for line in everything if line["recording_id"] not in kept_back]
    return {SELECTED: selected, ALL: rest, RANDOM: random_part(rest, seconds(selected), seed=seed), DEV: dev}


def random_part(lines: list[Line], wanted: float, *, seed: int) -> list[Line]:
    """Lines in a random order, until they have `wanted` seconds or nothing is left."""
    drawn: list[Line] = []
    left = wanted
    for line in random.Random(seed).sample(lines, len(lines)):
        if left <= 0:
            break
        drawn.append(line)
        left -= line["duration"]
    return drawn


def write(exported: Path, folder: Path, *, seed: int) -> None:
    """Write NAME.jsonl of every training set.

    Args:
        exported: has the exports of the selection (selected/) and of all transcripts (all/).
        folder: where the manifests go.
        seed: of the random part.
    """
    chosen, everything = exported / SELECTED, read(exported / ALL / "train" / "manifest.json")
    train, dev = (read(chosen / split / "manifest.json") for split in ("train", "dev"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in training_sets(train, dev, everything, seed=seed).items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
