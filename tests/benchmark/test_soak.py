"""jobs.bench soak: a time that is none is refused before anything starts."""

from __future__ import annotations

import pytest

from jobs import bench as job


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_hours_are_a_number_above_0(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        job.main(["soak", f"--hours={value}"])
    assert stop.value.code == 2
    assert f"argument --hours: '{value}' is not a number above 0" in capsys.readouterr().err
