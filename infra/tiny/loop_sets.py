"""The training sets of infra.tiny.loop, as NeMo manifests: selected labels, all of them, and a random part of all."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SELECTED, ALL, RANDOM = "selected", "all", "random"
STUDENTS = (SELECTED, ALL, RANDOM)

Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    """The lines of a manifest."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def seconds(lines: Iterable[Line]) -> float:
    """How long they are together."""
    return sum(float(line["duration"]) for line in lines)


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
    selected, everything = (read(exported / name / "train" / "manifest.json") for name in (SELECTED, ALL))
    drawn = random_part(everything, seconds(selected), seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in ((SELECTED, selected), (ALL, everything), (RANDOM, drawn)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
