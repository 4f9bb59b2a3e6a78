"""The calibrators that embedded models ship with: each is for the weights beside it, and a run uses it by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.config_file import load
from pipeline.model.files.layout import ASSETS, describe
from pipeline.output.calibrator import FILE, of_output, read_file
from pipeline.run import prepare

SHIPPED = sorted(path.parent.name for path in ASSETS.glob(f"*/{FILE}"))
SELF = ASSETS / "evaluation" / "self.tar"


@pytest.mark.parametrize("model", SHIPPED)
def test_a_shipped_calibrator_is_for_the_shipped_weights(model: str) -> None:
    """New weights need a new one: python -m infra.tiny.calibrate MODEL."""
    info = describe(model)
    assert read_file(ASSETS / model / FILE).model == f"{info.name}@{info.weights_hash}"


def test_a_new_output_has_the_models_own_calibrator_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    given = [f"source.uri={SELF}", f"output.uri={tmp_path / 'out'}", "model.name=tiny"]
    own = read_file(ASSETS / "tiny" / FILE)
    assert of_output(prepare(load(RunConfig, None, given))) == own
    assert of_output(prepare(load(RunConfig, None, [*given, "model.calibrator=null"]))) is None
    assert of_output(prepare(load(RunConfig, None, given))) is None
