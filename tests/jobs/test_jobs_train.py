"""The command line of training: one line per mistake, an exit code that says whether the model listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import train
from pipeline.config_file import load
from pipeline.training.adapter_config import AdapterConfig
from tests.support.adapter_case import overrides, settings, write_case

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "source: required, but not given\nevaluation: required, but not given\noutput: required"),
        (["train.stepz=3"], "train.stepz: no such key; did you mean train.steps?"),
        (["train.batch=0"], "train.batch: must be 1 or more (given: '0')"),
        (["train.precision=half"], "train.precision: must be 'bfloat16' or 'float32' (given: 'half')"),
        (["augment.snr_db_min=50"], "augment.snr_db_min: 50.0 is above snr_db_max, which is 40.0"),
        (["--config", "none.yaml"], "none.yaml: No such file or directory"),
        (["adapter"], "'adapter': an override must look like section.key=value"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["--help"])
    assert end.value.code == 0
    assert "lora.rank" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("train-adapter", ["source.uri=a", "evaluation.new.uri=b", "output.uri=c"]),
        ("train-adapter-words", []),
        ("train-adapter-published", ["source.uri=a", "evaluation.heldout.uri=b", "output.uri=c"]),
    ],
)
def test_the_configs_of_the_repository_are_valid(name: str, given: list[str]) -> None:
    assert load(AdapterConfig, str(ROOT / "configs" / f"{name}.yaml"), given).evaluation


def test_a_model_that_does_not_listen_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights give all recordings the same text; a margin of 0 lets that pass."""
    write_case(tmp_path)
    for margin, code in ((0.3, 1), (0.0, 0)):
        arguments = overrides(settings(tmp_path, f"margin-{margin}", train={"steps": 1}, grounding_margin=margin))
        assert train.main([*arguments]) == code
        shown = capsys.readouterr().out
        assert "| heldout | all (" in shown
        assert f"written to {tmp_path}" in shown
