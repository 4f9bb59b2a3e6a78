"""Bundles: every unit is in one of them, in order; none is larger than its bounds; they become smaller at the end."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle
from ray.data._internal.planner.plan_read_op import TASK_SIZE_WARN_THRESHOLD_BYTES

from pipeline.flow.bundles import (
    MAX_SECONDS,
    MAX_UNITS,
    SHARES,
    TASK_UNITS,
    Bundles,
    as_block,
    in_bundles,
    rows_of,
)
from pipeline.schemas import PIECE_DECODED, START, UNIT_LEFT, Place, piece_row, to_table

PLACE = {"plan": "plan", "row_group": 0, "first_row": 0, "rows": 1}


def units(count: int) -> pa.Table:
    return to_table(({"unit_id": f"{number:016x}", "place": PLACE} for number in range(count)), UNIT_LEFT)


def sizes(seconds: list[float], workers: int) -> list[int]:
    return [len(bundle) for bundle in in_bundles(units(len(seconds)), seconds, workers)]


@given(st.lists(st.floats(0, 2 * MAX_SECONDS), max_size=400), st.integers(1, 20))
def test_every_unit_is_in_one_bundle_and_no_bundle_is_above_its_bounds(seconds: list[float], workers: int) -> None:
    table = units(len(seconds))
    made = list(in_bundles(table, seconds, workers))
    assert [unit for bundle in made for unit in bundle["unit_id"].to_pylist()] == table["unit_id"].to_pylist()
    first = 0
    for bundle in made:
        size = len(bundle)
        assert size == 1 or (size <= MAX_UNITS and sum(seconds[first : first + size]) <= MAX_SECONDS)
        assert size == 1 or size * SHARES * workers <= len(seconds) - first  # the end is not left to one worker
        first += size


def test_a_small_archive_has_one_unit_in_a_bundle() -> None:
    assert sizes([30.0] * 31, workers=2) == [1] * 31


def test_a_large_archive_has_full_bundles_and_single_units_at_its_end() -> None:
    made = sizes([30.0] * 2000, workers=2)
    assert made[0] == MAX_UNITS
    assert made == sorted(made, reverse=True)
    assert made[-16:] == [1] * 16
    assert sizes([600.0] * 2000, workers=2)[0] == 6  # an hour of audio


def test_a_block_has_the_rows_that_were_put_into_it() -> None:
    rows = [
        piece_row(f"{number:016x}", Place("plan", 0, number, 1), number, START, None) | {"pcm": bytes([number])}
        for number in range(3)
    ]
    table = to_table(rows, PIECE_DECODED)
    for whole in (table, pa.concat_tables([to_table([row], PIECE_DECODED) for row in rows])):
        block = as_block(whole)
        assert block.num_rows == 1
        assert rows_of(block).equals(table)
        assert rows_of(block).schema.equals(PIECE_DECODED)
    assert rows_of(as_block(table.slice(1, 1))).to_pylist() == rows[1:2]


@pytest.mark.parametrize("each", [1.0, 600.0])
def test_the_tasks_hand_out_every_bundle_in_order(each: float) -> None:
    """Each block is one bundle. A task has no unit of another one and is smaller than what Ray warns of."""
    table, seconds = units(4 * TASK_UNITS), [each] * (4 * TASK_UNITS)
    wanted = list(in_bundles(table, seconds, workers=2))
    tasks = Bundles(table, seconds, workers=2).get_read_tasks(1)
    handed_out = [list(task()) for task in tasks]
    assert [rows_of(block).to_pylist() for blocks in handed_out for block in blocks] == [b.to_pylist() for b in wanted]
    counts = [sum(len(rows_of(block)) for block in blocks) for blocks in handed_out]
    assert min(counts[:-1]) > TASK_UNITS - MAX_UNITS
    assert max(counts) <= TASK_UNITS
    assert max(len(cloudpickle.dumps(task)) for task in tasks) < TASK_SIZE_WARN_THRESHOLD_BYTES / 1.5
    assert {task.read_fn.__name__ for task in tasks} == {"_blocks"}, "Ray names it where it warns"
