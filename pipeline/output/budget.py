"""What may fail before a run stops: dead letters in all, and recordings in a row that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import BudgetConfig

FILES = {"missing_file"}  # what failed is the place of the files, and not their content
EXIT_FAILED, EXIT_STORAGE = 1, 3


class OverBudget(Exception):
    """So much has failed that the run stops. One line.

    code: the exit code of the job, 1, or 3 if files are missing. summary: of what is committed and published.
    """

    def __init__(self, line: str, code: int = EXIT_FAILED) -> None:
        super().__init__(line)
        self.code = code
        self.summary: dict[str, Any] = {}


class Budget:
    """Adds up what failed while the units are finished.

    recordings: of all plans, with those that archives that cannot be read may hold. dead: these, and the dead letters
    before this run that no unit of this run tries again. So the dead letters counted here never become fewer: once they
    are too many, the budget cannot be kept.
    """

    def __init__(self, config: BudgetConfig, recordings: int, dead: int) -> None:
        self._config, self._recordings, self.dead = config, recordings, dead
        self._most = config.max_dead_fraction * recordings
        self.row = 0  # recordings that could not be read, since the last one that could

    def check(self) -> None:
        """Raise OverBudget if the dead letters are more than the budget allows."""
        if self.dead > self._most:
            line = over_budget(self.dead / self._recordings, self._config)
            raise OverBudget(f"{line}; stopped before the end, the same command goes on with a larger budget")

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Count a finished unit, or a piece of one. receipt: a row of RECEIPT (output/stage.py). Raises OverBudget."""
        self.dead += receipt["dead"]
        longest = max(self.row + receipt["unread_before"], receipt["unread_longest"])
        self.row = receipt["unread_after"] + (0 if receipt["read"] else self.row)
        if 0 < self._config.stop_after <= longest:
            error = receipt["unread_error"]
            raise OverBudget(
                f"source.uri: {longest} recordings in a row could not be read, the last one: {error}; once the source "
                "is repaired, the same command goes on and retry=dead_letters tries these again "
                f"(budget.stop_after={self._config.stop_after}; 0 never stops)",
                EXIT_STORAGE if error.partition(":")[0] in FILES else EXIT_FAILED,
            )
        self.check()


def over_budget(fraction: float, config: BudgetConfig) -> str:
    """The line about a fraction of dead letters that is above the budget."""
    return f"{fraction:.1%} of the recordings are dead letters, budget.max_dead_fraction allows " + (
        f"{config.max_dead_fraction:.1%}"
    )
