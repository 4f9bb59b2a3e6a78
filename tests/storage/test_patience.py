"""Tests of the retry loop: what is repeated, what is not, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.storage import patience
from pipeline.storage.patience import Failure, patiently


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The waits of the loop in seconds; nothing waits in fact."""
    waited: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waited.append)
    patience.retries.clear()
    yield waited
    patience.retries.clear()


def judge(error: Exception) -> Failure | None:
    if isinstance(error, TimeoutError):
        return Failure(OSError(f"in vain: {error}"), "TimeoutError")
    return Failure(OSError("refused"), None) if isinstance(error, PermissionError) else None


def test_transient_errors_are_repeated_and_counted(waits: list[float]) -> None:
    errors = iter([TimeoutError(1), TimeoutError(2)])

    def request() -> str:
        for error in errors:
            raise error
        return "answer"

    assert patiently(request, judge, attempts=3) == "answer"
    assert patience.retries == {"TimeoutError": 2}
    assert len(waits) == 2


def test_the_last_error_is_raised_after_all_attempts(waits: list[float]) -> None:
    errors = iter(TimeoutError(number) for number in range(100))

    def request() -> None:
        raise next(errors)

    with pytest.raises(OSError, match="in vain: 11"):
        patiently(request, judge, attempts=12)
    assert patience.retries == {"TimeoutError": 11}
    for number, wait in enumerate(waits):
        longest = min(patience.LONGEST_SECONDS, patience.FIRST_SECONDS * 2**number)
        assert longest / 2 <= wait <= longest


@pytest.mark.parametrize(("error", "raised"), [(PermissionError(), OSError), (KeyError("bug"), KeyError)])
def test_errors_that_a_retry_cannot_help_are_raised_at_once(
    waits: list[float], error: Exception, raised: type[Exception]
) -> None:
    calls = []

    def request() -> None:
        calls.append(1)
        raise error

    with pytest.raises(raised):
        patiently(request, judge, attempts=5)
    assert (len(calls), waits, patience.retries) == (1, [], {})
