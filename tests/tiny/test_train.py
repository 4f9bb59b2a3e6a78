"""The command line of the factory: one line per mistake, and its configs are valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.tiny import train
from infra.tiny.recipe import TrainConfig
from pipeline.config_file import load

CONFIGS = sorted((Path(__file__).parents[2] / "infra/tiny/configs").glob("*.yaml"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["phases.stepz=3"], "phases.stepz: no such key"),
        (["--config", "none.yaml"], "none.yaml: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["--help"])
    assert end.value.code == 0
    assert "phases.ctc_steps" in capsys.readouterr().out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_are_valid_and_name_themselves(path: Path) -> None:
    assert load(TrainConfig, str(path), []).folder == f"work/train-{path.stem}"
    assert f"python -m infra.tiny.train --config infra/tiny/configs/{path.name}" in path.read_text()
