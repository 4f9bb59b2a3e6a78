"""The training sets of the loop: what was selected, everything, and as many hours of everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.tiny import loop_sets


def lines(*names: str) -> list[dict[str, Any]]:
    return [{"recording_id": name, "duration": 1.0 + number, "text": name} for number, name in enumerate(names)]


EVERYTHING = lines("a", "b", "c", "d", "e", "f")
SELECTED = EVERYTHING[:2]


@pytest.mark.parametrize("seed", range(20))
def test_the_random_part_is_as_long_as_the_selection_to_one_recording(seed: int) -> None:
    drawn = loop_sets.random_part(EVERYTHING, 7.0, seed=seed)
    assert 7.0 <= loop_sets.seconds(drawn) < 7.0 + drawn[-1]["duration"]
    names = [line["recording_id"] for line in drawn]
    assert len(set(names)) == len(names)


def test_another_seed_draws_another_part_and_the_same_seed_the_same() -> None:
    drawn = [loop_sets.random_part(EVERYTHING, 7.0, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert any(one != drawn[0] for one in drawn)


def test_a_selection_of_everything_leaves_nothing_out() -> None:
    assert sorted(map(str, loop_sets.random_part(EVERYTHING, 1e9, seed=0))) == sorted(map(str, EVERYTHING))


def test_the_manifests_are_written_from_the_exports(tmp_path: Path) -> None:
    for name, rows in (("selected", SELECTED), ("all", EVERYTHING)):
        path = tmp_path / "sets" / name / "train" / "manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loop_sets.write(tmp_path / "sets", tmp_path / "students", seed=0)
    written = {name: loop_sets.read(tmp_path / "students" / f"{name}.jsonl") for name in loop_sets.STUDENTS}
    drawn = loop_sets.random_part(EVERYTHING, loop_sets.seconds(SELECTED), seed=0)
    assert written == {"selected": SELECTED, "all": EVERYTHING, "random": drawn}
