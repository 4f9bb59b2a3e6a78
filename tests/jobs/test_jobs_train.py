"""The command line of training: two jobs behind one name, and one line per mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import train
from tests.support.adapter_case import overrides, settings, write_case


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["adapter"], "source: required and not given\nevaluation: required and not given\noutput: required"),
        (["adapter", "train.stepz=3"], "train.stepz: no such key; did you mean train.steps?"),
        (["adapter", "train.batch=0"], "train.batch: Input should be greater than or equal to 1 (given: '0')"),
        (["adapter", "compute.strategy=both"], "compute.strategy: Input should be 'ddp' or 'fsdp' (given: 'both')"),
        (["adapter", "augment.snr_db_min=50"], "augment: snr_db_min is above snr_db_max"),
        (["adapter", "--config", "none.yaml"], "none.yaml: No such file or directory"),
        (["tiny", "phases.stepz=3"], "phases.stepz: no such key"),
        (["phases.stepz=3"], "phases.stepz: no such key"),
        (["--config", "none.yaml"], "none.yaml: No such file or directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "key"), [(["adapter"], "lora.rank"), (["tiny"], "phases.ctc_steps"), ([], "phases")]
)
def test_each_job_lists_its_own_settings(arguments: list[str], key: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main([*arguments, "--help"])
    assert end.value.code == 0
    assert key in capsys.readouterr().out


def test_a_model_that_does_not_listen_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights hear the same in everything; with no margin asked for, that is enough."""
    write_case(tmp_path)
    for margin, code in ((0.3, 1), (0.0, 0)):
        arguments = overrides(settings(tmp_path, f"margin-{margin}", train={"steps": 1}, grounding_margin=margin))
        assert train.main(["adapter", *arguments]) == code
        shown = capsys.readouterr().out
        assert "| held | all (" in shown
        assert f"written to {tmp_path}" in shown
