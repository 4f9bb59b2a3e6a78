"""The budget while a run goes: dead letters in all, recordings in a row that cannot be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import BudgetConfig
from pipeline.output.budget import Budget, OverBudget
from pipeline.output.stage import reading
from pipeline.schemas import Problem

READ = None
MISSING = Problem("missing_file", "read", "/in/a.wav: No such file or directory")
CHANGED = Problem("source_changed", "read", "/in/b.wav: written again")
LISTED = Problem("missing_file", "list", "the table names it")
NOT_AUDIO = Problem("not_audio", "decode", "text")

FREE = BudgetConfig(max_dead_fraction=1, stop_after=4)


def stop(config: BudgetConfig, units: list[list[Problem | None]]) -> OverBudget | None:
    """The stop after these units; None if the run goes on."""
    budget = Budget(config, 1000, 0)
    try:
        for unit in units:
            budget.add({"dead": sum(problem is not None for problem in unit)} | reading(unit))
    except OverBudget as err:
        return err
    return None


@given(st.lists(st.lists(st.sampled_from([READ, MISSING, CHANGED, LISTED, NOT_AUDIO]), max_size=8), max_size=8))
def test_the_run_stops_after_so_many_unread_recordings_in_a_row_whatever_units_they_are_in(
    units: list[list[Problem | None]],
) -> None:
    row = longest = 0
    for problem in (problem for unit in units for problem in unit):
        if problem in (MISSING, CHANGED):
            row += 1
        elif problem is not LISTED:  # that one was never read
            row = 0
        longest = max(longest, row)
    assert (stop(FREE, units) is not None) == (longest >= 4)
    assert stop(FREE.model_copy(update={"stop_after": 0}), units) is None


@pytest.mark.parametrize(("problem", "code"), [(MISSING, 3), (CHANGED, 1)])
def test_the_line_names_the_last_failure_and_the_code_what_kind_it_is(problem: Problem, code: int) -> None:
    stopped = stop(FREE, [[READ, problem], [problem] * 3])
    assert stopped is not None
    assert stopped.code == code
    line = f"source.uri: 4 recordings in a row could not be read, the last one: {problem.reason}: {problem.error}; "
    assert str(stopped).startswith(line)
    assert "retry=dead_letters" in str(stopped)
    assert "\n" not in str(stopped)


def test_the_run_stops_once_the_budget_of_dead_letters_cannot_be_kept() -> None:
    budget = Budget(BudgetConfig(max_dead_fraction=0.05), 1000, 20)
    budget.check()
    for _ in range(30):
        budget.add({"dead": 1} | reading([NOT_AUDIO, READ]))
    with pytest.raises(
        OverBudget, match=r"^5\.1% of the recordings are dead letters, budget.* allows 5\.0%;"
    ) as stopped:
        budget.add({"dead": 1} | reading([NOT_AUDIO]))
    assert stopped.value.code == 1


def test_a_run_that_begins_above_its_budget_does_not_begin() -> None:
    with pytest.raises(OverBudget, match=r"^6\.0% of the recordings"):
        Budget(BudgetConfig(max_dead_fraction=0.05), 100, 6).check()
